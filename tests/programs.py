"""How tests run a program: in this process, as a user would call it, with what it printed and its exit code."""

import contextlib
import importlib
import io
import sys

import pytest

from alpaca_jax.support.program import run_program


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python -m alpaca_jax.NAME ARGUMENTS`."""
    module = importlib.import_module(f"alpaca_jax.{name}")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            run_program(module.main)
        except SystemExit as exit:
            code = exit.code
    return int(code or 0), out.getvalue(), err.getvalue()


def the_one_line(name: str, *arguments: str) -> str:
    """The line with which a program refuses, checked to be one line, alone, with a failing exit code."""
    code, out, err = run(name, *arguments)
    assert code == 2, (code, out, err)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]
