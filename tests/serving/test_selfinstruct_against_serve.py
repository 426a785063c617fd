"""The loop closed on one machine: `selfinstruct` asks our own server, over HTTP, with the tiny model behind it.

A model of random numbers writes nothing that is a task: what is checked is that every request comes through and is
understood on both sides, down to the last token that either counts.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.engine import Engine
from alpaca_jax.model.definition import define
from alpaca_jax.serving.service import ServedModel, Service
from tests.models import SMALL
from tests.programs import run
from tests.serving.server import metric, running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    definition = define(dataclasses.replace(SMALL, max_position_embeddings=4096))
    engine = Engine(definition, definition.initialise(3), load_tokenizer(TOKENIZER), TEMPLATES["alpaca"], slots=2)
    with running(Service([ServedModel("tiny", engine, "0" * 64)]), tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.mark.parametrize(("api", "prompts"), [("completions", 5), ("chat", 1)])
def test_the_loop_closes(served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str, prompts: int):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def counted() -> list[float]:
        names = [f'alpaca_jax_tokens_total{{kind="{kind}",model="tiny"}}' for kind in ("prompt", "answer")]
        return [metric(served.port, name) for name in names]

    before, out = counted(), tmp_path / "new.jsonl"
    flags = [f"--seeds={SEED_TASKS}", f"--out={out}", "--num=9", "--model=tiny", f"--base_url={served.url}"]
    flags += ["--dry_run=2", "--max_tokens=12", f"--api={api}", "--seed=1", "--temperature=0", "--json"]
    code, printed, err = run("selfinstruct", *flags)
    assert code == 0, err
    report = json.loads(printed)
    assert report["requests"] == 2
    assert report["given_up"] == report["unmeasured"] == 0
    assert report["answer_tokens"] == 2 * prompts * 12  # greedy: none is drawn that ends early
    assert [report["prompt_tokens"], report["answer_tokens"]] == [
        now - then for now, then in zip(counted(), before, strict=True)
    ]
    assert report["records"] + sum(report["rejected"].values()) > 0
    if api == "chat":
        assert "asking for text instead of JSON" in err
