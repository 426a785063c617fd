"""One small model and one engine for all tests of answers, so that its programs are compiled once."""

import dataclasses

import pytest

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.engine import Engine
from alpaca_jax.model.definition import Definition, Parameters, define
from tests.models import SMALL

MODEL = dataclasses.replace(SMALL, max_position_embeddings=512)


@pytest.fixture(scope="session")
def definition() -> Definition:
    return define(MODEL)


@pytest.fixture(scope="session")
def parameters(definition: Definition) -> Parameters:
    return definition.initialise(3)


@pytest.fixture(scope="session")
def engine(definition: Definition, parameters: Parameters) -> Engine:
    """Of four slots, on one device; every test leaves it idle."""
    return Engine(definition, parameters, load_tokenizer(TOKENIZER), TEMPLATES["alpaca"], slots=4)
