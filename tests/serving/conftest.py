"""One tiny model, compiled once, behind all servers of these tests; and a gate that holds it in the middle of work."""

import threading

import pytest

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.engine import Engine
from alpaca_jax.model.definition import define
from alpaca_jax.serving.service import ServedModel, Service
from tests.models import SMALL
from tests.serving.server import Served, running


class GatedEngine(Engine):
    """An engine that makes no step while its gate is shut."""

    gate: threading.Event

    def step(self) -> bool:
        self.gate.wait()
        return super().step()


@pytest.fixture(scope="session")
def engine() -> GatedEngine:
    definition = define(SMALL)
    engine = GatedEngine(definition, definition.initialise(3), load_tokenizer(TOKENIZER), TEMPLATES["alpaca"], slots=2)
    engine.gate = threading.Event()
    engine.gate.set()
    return engine


@pytest.fixture
def gate(engine: GatedEngine):
    """Shuts the engine's gate; open again when the test ends."""
    engine.gate.clear()
    yield engine.gate
    engine.gate.set()


@pytest.fixture(scope="session")
def model(engine: GatedEngine) -> ServedModel:
    return ServedModel("tiny", engine, "0" * 64)


@pytest.fixture(scope="package")
def served(model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server with the limits that it has by default."""
    with running(Service([model]), tmp_path_factory.mktemp("served")) as server:
        yield server
