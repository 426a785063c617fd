"""The program: what it refuses, how it begins and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from alpaca_jax.serving.feedback import Feedback
from alpaca_jax.serving.loading import names_of
from alpaca_jax.serving.server import is_loopback, open_socket
from tests.checkpoints import write_checkpoint
from tests.programs import run, the_one_line
from tests.serving.server import ask


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ALPACA_JAX_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--checkpoint"),
        (["--checkpoint=nowhere"], "nowhere: expected"),
        (["--checkpoint=nowhere", "--host=0.0.0.0"], "ALPACA_JAX_API_KEY"),
        (["--checkpoint=nowhere", "--host=no.such.host.invalid"], "ALPACA_JAX_API_KEY"),
        (["--checkpoint=nowhere", "--port=70000"], "0 to 65,535"),
        (["--checkpoint=nowhere", "--port=http"], "--port"),
        (["--checkpoint=nowhere", "--slots=0"], "--slots"),
        (["--checkpoint=nowhere", "--queue=-1"], "--queue"),
        (["--checkpoint=nowhere", "--timeout=nan"], "--timeout"),
        (["--checkpoint=nowhere", "--moderation=wordlist"], "--wordlist=FILE"),
        (["--checkpoint=nowhere", "--watermark_key=nowhere.key"], "nowhere.key"),
        (["--checkpoint=nowhere", "--modration=none"], "--moderation"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(flags: list[str], said: str):
    assert said in the_one_line("serve", *([] if any("port" in flag for flag in flags) else ["--port=0"]), *flags)


def test_a_port_that_is_taken_is_named():
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port={port}" in the_one_line("serve", "--checkpoint=nowhere", f"--port={port}")


def test_a_key_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALPACA_JAX_API_KEY", "geheimnisträger")
    line = the_one_line("serve", "--checkpoint=nowhere", "--port=0", "--host=0.0.0.0")
    assert "ASCII" in line
    assert "geheim" not in line


def test_flags_and_votes_are_exported(tmp_path: Path):
    flags = [f"--feedback={tmp_path / 'feedback.sqlite'}", f"--export_feedback={tmp_path / 'out.jsonl'}"]
    assert "feedback.sqlite" in the_one_line("serve", *flags)
    Feedback(tmp_path / "feedback.sqlite")
    code, out, err = run("serve", *flags)
    assert (code, err) == (0, "")
    assert "0 flags and votes" in out


def test_help_is_one_screen():
    code, out, _ = run("serve", "--help")
    assert code == 0
    assert len(out.splitlines()) <= 40
    assert all(len(line) <= 120 for line in out.splitlines())


def test_names_and_addresses():
    assert names_of(["runs/a/base", "runs/b/base"]) == ["a/base", "b/base"]
    assert names_of(["runs/base"]) == ["base"]
    assert names_of(["runs/base", "runs/base"]) == ["base", "base-2"]
    assert is_loopback("::1")
    assert is_loopback("127.9.9.9")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("localhost.example.org")


def test_a_context_that_the_model_has_not_got_is_refused_before_a_file_is_made(checkpoint: Path, tmp_path: Path):
    feedback = tmp_path / "feedback.sqlite"
    flags = [f"--checkpoint={checkpoint}", "--port=0", "--context=100000", f"--feedback={feedback}"]
    assert "--context" in the_one_line("serve", *flags)
    assert not feedback.exists()


def test_told_to_end_it_finishes_what_it_has_begun(checkpoint: Path, tmp_path: Path):
    command = [sys.executable, "-m", "alpaca_jax.serve", f"--checkpoint={checkpoint}", "--port=0", "--slots=1"]
    command += [f"--feedback={tmp_path / 'feedback.sqlite'}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr
            line = next(line for line in process.stderr if "http://" in line)
            port = int(line.split("127.0.0.1:")[1].split()[0])
            assert line.startswith("tiny: ")
            events: list[str] = []
            body = {"prompt": "Name a metal.", "max_tokens": 100, "stream": True, "temperature": 0, "n": 4}
            reader = threading.Thread(
                target=lambda: events.extend(ask(port, "/v1/completions", body).body.split("\n\n"))
            )
            reader.start()
            while "answer" not in ask(port, "/metrics").body.partition("alpaca_jax_tokens_total{")[2]:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            reader.join(60)
            assert events[-2] == "data: [DONE]"
            choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-2]]
            assert sum(choice["finish_reason"] is not None for choice in choices) == 4
            assert process.wait(60) == 0
            rest = process.stderr.read()
        finally:
            process.kill()
    assert rest == ""


BARE = """
import asyncio
from fastapi import FastAPI
from alpaca_jax.serving.server import open_socket, run
from alpaca_jax.serving.settings import Limits
from alpaca_jax.support.program import run_program

app = FastAPI()
app.state.end_pages = lambda: print("pages are told", flush=True)

@app.get("/slow")
async def slow() -> str:
    print("begun", flush=True)
    await asyncio.sleep(0.5)
    return "whole"

with open_socket("127.0.0.1", 0) as opened:
    port = opened.getsockname()[1]
    run_program(lambda: run(app, opened, Limits(), lambda: print(port, flush=True)))
"""


def test_ctrl_c_ends_it_as_gently():
    with subprocess.Popen(
        [sys.executable, "-c", BARE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            port = int(process.stdout.readline())
            answers: list[str] = []
            reader = threading.Thread(target=lambda: answers.append(ask(port, "/slow").body))
            reader.start()
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "pages are told\n"
            reader.join(30)
            assert answers == ["whole"]
            assert process.wait(30) == 130
            assert process.stderr.read() == "interrupted\n"
        finally:
            process.kill()
