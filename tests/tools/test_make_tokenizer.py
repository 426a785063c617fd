import subprocess
import sys
from pathlib import Path

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import load_tokenizer

TOOL = Path(__file__).parents[2] / "tools" / "make_tokenizer.py"


def make(tmp_path, *flags):
    program = [sys.executable, str(TOOL), f"--out={tmp_path / 'made.model'}", *flags]
    return subprocess.run(
        program, cwd=TOOL.parents[1], env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False
    )


def test_the_embedded_tokenizer_is_the_one_it_makes_of_the_embedded_tasks(tmp_path):
    end = make(tmp_path)
    assert end.returncode == 0, end.stderr
    assert (tmp_path / "made.model").read_bytes() == TOKENIZER.read_bytes()


def test_digits_stand_alone_and_bytes_stand_in():
    tokenizer = load_tokenizer(TOKENIZER)
    assert [tokenizer.piece(id) for id in tokenizer.encode_response("1984")] == list("1984")
    assert [tokenizer.piece(id) for id in tokenizer.encode_response("🦙")] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]


def test_a_vocabulary_that_the_text_does_not_yield(tmp_path):
    end = make(tmp_path, "--vocab_size=1000000")
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr.startswith("error: --vocab_size")
    assert end.stderr.count("\n") == 1
    assert not (tmp_path / "made.model").exists()
