"""Every program: its help is one screen and quick, and a wrong flag is one line."""

import resource
import subprocess
import sys

import pytest

from alpaca_jax.cli import PROGRAMS
from tests.programs import the_one_line

# What takes seconds to import must not stand between a user and the help.
HEAVY = ["jax", "flax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "transformers", "torch"]
PARTS = {
    "convert": ["import", "export", "diff", "recover", "verify"],
    "evaluate": ["answer", "pair", "annotate", "judge", "report", "diversity"],
    "watermark": ["detect"],
}


@pytest.mark.parametrize("call", [*PROGRAMS, *(f"{name} {part}" for name in PARTS for part in PARTS[name])])
def test_help_is_one_screen_and_starts_nothing_heavy(call: str):
    name, *words = call.split()
    program = (
        f"import runpy, sys; sys.argv = {[name, *words, '--help']}\n"
        f"try: runpy.run_module('alpaca_jax.{name}', run_name='__main__')\n"
        f"except SystemExit as exit: assert not exit.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stderr == "[]\n"
    assert "usage:" in ended.stdout
    assert len(ended.stdout.splitlines()) <= 40
    assert max(map(len, ended.stdout.splitlines())) <= 120
    # A third of that on an idle machine.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5


def test_the_package_itself_imports_nothing():
    program = "import sys; before = set(sys.modules); import alpaca_jax; print(sorted(set(sys.modules) - before))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "['alpaca_jax']\n"


# A call of each program as it should be.
CALLS = [
    "audit --input=a",
    "convert export --checkpoint=a --out=b",
    "evaluate pair --answers=a --baseline=b --out=c",
    "generate --checkpoint=a --prompt=b",
    "plan --config=configs/alpaca_7b.py:a100x8",
    "prepare --input=a --tokenizer=b --seq_len=8 --out=c",
    "selfinstruct --out=b.jsonl --seeds=a --num=1 --model=m",
    "serve --checkpoint=a",
    "show --data=a",
    "train --config=configs/tiny.py --workdir=b",
    "watermark detect --input=a --key=b --tokenizer=c",
]


def test_there_is_a_call_of_each():
    assert {call.split()[0] for call in CALLS} == PROGRAMS.keys()


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_flag_is_one_line_with_the_nearest(call: str):
    name, *words = call.split()
    place = next(number for number, word in enumerate(words) if word.startswith("--"))
    flag, value = words[place].split("=")
    words[place] = f"{flag[:-1]}z={value}"
    assert f"Did you mean '{flag}'" in the_one_line("convert.__main__" if name == "convert" else name, *words)


def test_the_script_lists_and_refuses():
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from alpaca_jax.cli import main; main()"
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)

    listed = script("--help")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in PROGRAMS)
    refused = script("trian")
    assert refused.returncode == 2
    assert "Did you mean 'train'" in refused.stderr
    assert "usage: " in script("prepare", "--help").stdout
