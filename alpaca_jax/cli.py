"""The console script: `alpaca-jax NAME …` is `python -m alpaca_jax.NAME …`."""

import runpy
import sys

from alpaca_jax.support.program import refuse_unknown, run_program

# In the order in which a user meets them.
PROGRAMS = {
    "audit": "what is wrong with an instruction file",
    "selfinstruct": "new instructions from seeds and a model",
    "prepare": "instruction files to a packed dataset",
    "show": "one packed row, token by token",
    "convert": "weights in and out, weight diffs, proof",
    "plan": "will it fit, how long, what cost",
    "train": "fine-tune, or go on with it",
    "generate": "answers from a checkpoint",
    "serve": "an OpenAI-compatible server, with a page to try it",
    "watermark": "a key, and whether a text bears its mark",
    "evaluate": "blind comparisons, votes, win rates; what a data set is about",
}


def main() -> None:
    """Runs the program that the first argument names, or lists them."""
    run_program(_main)


def _main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print("usage: alpaca-jax NAME [--help] [flags]\n")
        for program, purpose in PROGRAMS.items():
            print(f"  {program:<13}{purpose}")
        return
    if name not in PROGRAMS:
        refuse_unknown(name, list(PROGRAMS), "alpaca-jax")
    del sys.argv[1]
    runpy.run_module(f"alpaca_jax.{name}", run_name="__main__", alter_sys=True)
