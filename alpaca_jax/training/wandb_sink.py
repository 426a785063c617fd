"""Weights & Biases, held at arm's length: a run neither waits for it nor fails with it.

It lives in a process of its own (`wandb_process.py`), so that nothing it does to signals, threads, output or the end of
a program reaches the run. The pipe to it is a queue of bounded size: what does not fit is dropped and counted.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alpaca_jax.support.files import write_text_atomic
from alpaca_jax.support.progress import console

# How long the end of a run waits for it. wandb keeps its own copy, which `wandb sync` sends later.
_PATIENCE_SECONDS = 30.0


class WandbSink:
    """A run of Weights & Biases; whether and where it is sent, is said by the variables WANDB_MODE, WANDB_API_KEY, ….

    Args:
      workdir: the run's; wandb keeps its files in `wandb/` there, and what it says in `wandb.log`. A run that goes on
        goes on there too.
      project: the project's name.
      config: the run's configuration, as JSON.
      resume_at: the update that the run goes on from.
    """

    def __init__(self, workdir: Path, project: str, config: Any, resume_at: int):
        name = workdir / "wandb_run"
        if not (resume_at and name.is_file()):
            write_text_atomic(name, secrets.token_hex(4))
        options = {"project": project, "id": name.read_text(), "resume": "allow", "dir": str(workdir), "config": config}
        self._log = workdir / "wandb.log"
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "alpaca_jax.training.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the run; and its helpers end with it
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe, self._taken_pipe = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._taken_pipe, False)
        self._given = self._taken = 0
        self._unsent = json.dumps(options).encode() + b"\n"
        self._send()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Hands over the numbers of an update, or drops them where those before have not been taken yet."""
        self._given += 1
        self._send()
        if not self._unsent:
            self._unsent = json.dumps({"step": step} | values).encode() + b"\n"
            self._send()
        self._count_taken()

    def close(self) -> None:
        """Ends it, by force where it takes too long, and says what was lost."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._unsent and time.monotonic() < deadline and self._process.poll() is None:
            self._send()
            time.sleep(0.01)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        in_time = True
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            in_time = False
        # Its own helpers too, which would outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._count_taken()
        self._process.stdout.close()
        if (lost := self._given - self._taken) or code:
            why = "it failed" if in_time else f"it was not done after {_PATIENCE_SECONDS:g} s"
            console.print(
                f"[yellow]Weights & Biases has not got {lost} of {self._given} lines[/] ({why}; see {self._log}); "
                "metrics.jsonl has them all"
            )

    def _send(self) -> None:
        """As much as the pipe takes at once."""
        # Where the pipe is full, or nobody is there, it stays, and what comes after it is lost.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self._unsent = self._unsent[os.write(self._pipe, self._unsent) :] if self._unsent else b""

    def _count_taken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._taken += len(os.read(self._taken_pipe, 2**16))
