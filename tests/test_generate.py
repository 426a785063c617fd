"""The program: how its flags change an answer, a chat in the terminal, and what it refuses before it loads anything."""

import functools
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.data.instructions import Conversation, Message
from alpaca_jax.generation import load
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.watermark_files import read_watermark
from tests.checkpoints import write_checkpoint
from tests.programs import run, the_one_line

KEY = {"key": "1a2b" * 16, "gamma": 0.25, "delta": 8.0, "context_width": 1}


class Model(NamedTuple):
    """A checkpoint, the key that its answers are marked with, and what the program makes of both."""

    checkpoint: Path
    key: Path
    generator: Generator

    def answer(self, *flags: str) -> str:
        """What the program prints, in eight bits and marked."""
        common = [f"--checkpoint={self.checkpoint}", f"--watermark_key={self.key}", "--dtype=int8"]
        code, out, err = run("generate", *common, "--max_new_tokens=40", *flags)
        assert code == 0, err
        assert load.load_generator.cache_info().misses == 1, "it is loaded in the same way"
        return out.removesuffix("\n")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Loaded and compiled once for all these tests."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint, key = write_checkpoint(folder / "tiny"), folder / "key.json"
    key.write_text(json.dumps(KEY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_generator", functools.cache(load.load_generator))
        loaded = load.load_generator(str(checkpoint), "int8", None, slots=1, watermark=read_watermark(key))
        yield Model(checkpoint, key, loaded)


def test_the_likeliest_token_alone_is_the_greedy_answer(model: Model):
    greedy = model.answer("--prompt=Name a metal.", "--temperature=0")
    hot = ["--prompt=Name a metal.", "--temperature=20", "--top_p=1"]
    assert model.answer(*hot, "--top_k=1") == greedy
    assert model.answer(*hot) != model.answer(*hot, "--top_k=2") != greedy


def test_a_penalty_on_repetition_keeps_tokens_from_coming_twice(model: Model):
    engine = model.generator.engine

    def ids(penalty: float) -> list[int]:
        sampling = Sampling(temperature=0.0, max_new_tokens=100, repetition_penalty=penalty)
        return model.generator.continuations([engine.prompt_ids("Name a metal.")], sampling)[0]

    flags = ["--prompt=Name a metal.", "--temperature=0", "--max_new_tokens=100"]
    free, penalised = ids(1.0), ids(100.0)
    assert len(set(free)) < len(free)
    assert len(set(penalised)) == len(penalised)
    assert model.answer(*flags) == engine.tokenizer.decode(free)
    assert model.answer(*flags, "--repetition_penalty=100") == engine.tokenizer.decode(penalised)


def test_an_answer_ends_before_the_first_stop_text(model: Model):
    flags = ["--prompt=Name a metal.", "--temperature=0"]
    greedy = model.answer(*flags)
    stops = greedy[20:24], greedy[40:44]
    ends = [greedy.index(stop) for stop in stops]
    assert model.answer(*flags, f"--stop={stops[1]}") == greedy[: ends[1]]
    assert model.answer(*flags, *(f"--stop={stop}" for stop in stops[::-1])) == greedy[: min(ends)]


def test_the_watermark_is_found_in_its_answers(model: Model, tmp_path: Path):
    text = tmp_path / "answer.txt"
    text.write_text(model.answer("--instruction=Name a metal.", "--temperature=1", "--max_new_tokens=80"))
    detect = [f"--key={model.key}", f"--tokenizer={model.checkpoint}", f"--input={text}", "--json"]
    assert json.loads(run("watermark", "detect", *detect)[1])["detected"]


def test_a_chat_answers_each_line_with_those_before_it_in_mind(model: Model, monkeypatch: pytest.MonkeyPatch):
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    turns = [Message("user", "Hi.")]
    first = model.generator.answer([Conversation(tuple(turns))], sampling)[0]
    turns += [Message("assistant", first), Message("user", "And then?")]
    second = model.generator.answer([Conversation(tuple(turns))], sampling)[0]
    assert first != second
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi.\n\nAnd then?\n"))
    assert model.answer("--chat", "--temperature=0", "--max_new_tokens=8") == f"{first.lstrip()}\n{second.lstrip()}\n"


def test_half_a_character_in_any_field_of_a_file_is_refused_before_the_work(tmp_path: Path):
    for record in ('{"prompt": "\\ud83d"}', '{"prompt": "a", "note": "\\ud83d"}'):
        (tmp_path / "asked.jsonl").write_text(record)
        flags = [f"--input={tmp_path}/asked.jsonl", f"--out={tmp_path}/answered.jsonl"]
        assert "asked.jsonl, line 1: expected Unicode text" in the_one_line("generate", "--checkpoint=nowhere", *flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected one of --instruction, --prompt, --chat, or --input together with --out; found none"),
        (["--chat", "--prompt=a"], "found --prompt, --chat"),
        (["--prompt=a", "--out=b"], "found --prompt, --out"),
        (["--prompt="], "--prompt: expected"),
        (["--prompt=\udcff"], "--prompt: expected Unicode text"),
        (["--prompt=a", "--context=b"], "--context: expected --instruction with it; found --prompt"),
        ([f"--input={SEED_TASKS}", "--out=/proc/new"], "/proc/new: expected to write there"),
        ([f"--input={SEED_TASKS}", "--out="], "expected a file to write; found a folder"),
        (["--prompt=a", "--top_k=-1"], "--top_k: expected"),
        (["--prompt=a", "--repetition_penalty=0"], "--repetition_penalty: expected"),
        (["--prompt=a", "--stop="], "--stop: expected"),
        (["--prompt=a", "--watermark_key=nowhere.json"], "nowhere.json: expected"),
        (["--prompt=a", "--dtype=int4"], "--dtype"),
    ],
)
def test_what_it_refuses_before_it_looks_for_the_checkpoint(flags: list[str], said: str):
    assert said in the_one_line("generate", "--checkpoint=nowhere", *flags)
