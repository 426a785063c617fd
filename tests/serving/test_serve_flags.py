"""Two checkpoints behind one server that a user has started: in eight bits, with a watermark in every answer."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.definition import Parameters, define
from tests.checkpoints import random_weights, write_checkpoint
from tests.models import SMALL
from tests.programs import run
from tests.serving.server import ask

PROMPT = "Name a metal that conducts electricity well, and say what it is used for."
KEYS = [{"key": text * 16, "gamma": 0.25, "delta": 8.0, "context_width": 1} for text in ("1a2b", "3c4d")]


class Started(NamedTuple):
    """The server's port, its first checkpoint, and the key that it was started with beside another one."""

    port: int
    tuned: Path
    key: Path
    other_key: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("served")
    tuned, base = (write_checkpoint(folder / name, seed) for seed, name in enumerate(("tuned", "base")))
    keys = [folder / "key.json", folder / "other.json"]
    for path, key in zip(keys, KEYS, strict=True):
        path.write_text(json.dumps(key))
    command = [sys.executable, "-m", "alpaca_jax.serve", f"--checkpoint={tuned}", f"--compare={base}", "--dtype=int8"]
    command += [f"--watermark_key={keys[0]}", "--slots=1", "--port=0", f"--feedback={folder / 'feedback.sqlite'}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "ALPACA_JAX_API_KEY": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr
            line = next(line for line in process.stderr if "http://" in line)
            assert line.startswith("tuned, base: ")
            yield Started(int(line.split("127.0.0.1:")[1].split()[0]), tuned, *keys)
        finally:
            process.kill()


def completed(started: Started, model: str, **more: Any) -> dict[str, Any]:
    """The one choice of a completion of the prompt."""
    body = {"model": model, "prompt": PROMPT, "temperature": 0, **more}
    return ask(started.port, "/v1/completions", body).body["choices"][0]


def test_both_models_answer_and_stand_beside_each_other_on_the_page(started: Started):
    assert [model["id"] for model in ask(started.port, "/v1/models").body["data"]] == ["tuned", "base"]
    tuned, base = (completed(started, name, max_tokens=20)["text"] for name in ("tuned", "base"))
    assert tuned != base
    page = ask(started.port, "/").body
    assert all(f'"label":"{name}"' in page for name in ("tuned", "base"))


def test_eight_bits_say_nearly_what_the_weights_do_and_not_the_same(started: Started):
    served = completed(started, "tuned", max_tokens=0, echo=True, logprobs=0)["logprobs"]["token_logprobs"][1:]
    tokens_1L = jnp.array([load_tokenizer(TOKENIZER).encode_prompt(PROMPT)])

    @jax.jit
    def scores(weights: Parameters, tokens_1L: jax.Array) -> jax.Array:
        model = define(SMALL).bind(weights)
        hidden = model(tokens_1L, jnp.arange(tokens_1L.shape[1])[None], jnp.ones_like(tokens_1L))
        return jax.nn.log_softmax(model.logits(hidden).astype(jnp.float32))

    scores_LV, ids_L = scores(random_weights(), tokens_1L)[0], tokens_1L[0]
    exact = np.asarray(scores_LV[jnp.arange(len(ids_L) - 1), ids_L[1:]])
    assert len(served) == len(exact) > 15
    error = np.abs(np.array(served) - exact).mean() / exact.std()
    assert 1e-4 < error < 0.1


def test_its_answers_bear_the_watermark_of_that_key_alone(started: Started, tmp_path: Path):
    body = {"messages": [{"role": "user", "content": "Name a metal."}], "temperature": 1, "seed": 3, "max_tokens": 70}
    for name in ("tuned", "base"):
        message = ask(started.port, "/v1/chat/completions", body | {"model": name}).body["choices"][0]["message"]
        (tmp_path / "answer.txt").write_text(message["content"])
        flags = [f"--tokenizer={started.tuned}", f"--input={tmp_path / 'answer.txt'}", "--json"]
        ended = [run("watermark", "detect", f"--key={key}", *flags) for key in (started.key, started.other_key)]
        assert [json.loads(out)["detected"] for _, out, _ in ended] == [True, False]
