"""The program: keys made and read again, texts of each form, and what is refused."""

import gzip
import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.watermark import Watermark, green
from alpaca_jax.generation.watermark_files import read_watermark
from tests.programs import run, the_one_line

PLAIN = "The dog ran over the hill to the old house, where nobody had lived since the war."


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key file that is always the same, and so the figures."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"key": bytes(range(32)).hex(), "gamma": 0.5, "delta": 3, "context_width": 2}))
    return path


def marked_text(key: Path, length: int) -> str:
    """A text of words whose every token is green, as the strongest δ would choose them."""
    watermark, tokenizer = read_watermark(key), load_tokenizer(TOKENIZER)
    numbers = np.random.default_rng(0)
    letters = [id for id in range(300, tokenizer.vocab_size) if tokenizer.piece(id).strip().isalpha()]
    ids = letters[:2]
    while len(ids) < length:
        ngrams = np.array([[*ids[-2:], numbers.choice(letters)] for _ in range(8)], np.uint32)
        ids.append(int(ngrams[np.argmax(green(ngrams, watermark)), 2]))
    return tokenizer.decode(ids)


def detect(key: Path, input: Path, *flags: str) -> tuple[int, str, str]:
    return run("watermark", "detect", f"--key={key}", f"--tokenizer={TOKENIZER}", f"--input={input}", *flags)


def test_a_key_is_secret_new_and_carries_its_settings(tmp_path: Path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    code, out, err = run("watermark", "key", f"--out={first}", "--gamma=0.5", "--delta=3", "--context_width=2")
    assert code == 0, err
    assert json.loads(first.read_text())["key"] not in out
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    watermark = read_watermark(first)
    assert (len(watermark.key), watermark.gamma, watermark.delta, watermark.context_width) == (32, 0.5, 3.0, 2)
    assert run("watermark", "key", f"--out={second}")[0] == 0
    assert read_watermark(second).key != watermark.key
    assert read_watermark(second) == Watermark(read_watermark(second).key)
    before = first.read_bytes()
    assert "found one" in the_one_line("watermark", "key", f"--out={first}")
    assert first.read_bytes() == before


def test_one_text(key: Path, tmp_path: Path):
    text = tmp_path / "answer.txt"
    text.write_text(marked_text(key, 120) + "\n")
    code, out, err = detect(key, text, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert out.count("\n") == 1
    assert found["detected"] is True
    assert found["z"] > 8
    assert found["p_exact"] < found["p"] * 10 < 1e-12
    made = len(load_tokenizer(TOKENIZER).encode_response(text.read_text()))
    assert 0.8 * found["tokens"] < found["green"] <= found["tokens"] < made
    assert detect(key, text)[1].startswith(f"{text}: marked: z {found['z']:.2f}, p ")
    key.write_text(key.read_text().replace("000102", "ffffff"))
    assert json.loads(detect(key, text, "--json")[1])["detected"] is False


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.json", "answers.jsonl.gz"])
def test_records(key: Path, tmp_path: Path, name: str):
    records = [
        {"instruction": PLAIN, "output": marked_text(key, 100)},
        {"text": PLAIN},
        {"output": "", "text": PLAIN},
    ]
    content = json.dumps(records) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    code, out, err = detect(key, path, "--json")
    assert code == 0, err
    texts = json.loads(out)["texts"]
    assert [text["detected"] for text in texts] == [True, False, False]
    assert texts[2] == {"z": 0.0, "p": 0.5, "p_exact": 1.0, "tokens": 0, "green": 0, "detected": False}
    lines = detect(key, path)[1].splitlines()
    assert [": marked: " in line for line in lines] == [True, False, False]
    assert str(path) in lines[2]


def test_text_that_spells_special_tokens_is_text(key: Path, tmp_path: Path):
    path = tmp_path / "odd.txt"
    path.write_text("<s></s><unk>" * 5 + "\0\u2581")
    assert json.loads(detect(key, path, "--json")[1])["tokens"] > 5


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.txt", None, "no such file"),
        ("bad.txt", b"caf\xe9", "expected text in UTF-8"),
        ("long.txt", b"a" * 4_000_001, "at most 4,000,000 characters"),
        ("bad.jsonl", b'{"text": "a"}\n{"answer": "a"}\n', 'bad.jsonl, line 2: expected {"output": TEXT}'),
        ("bad.jsonl", b'{"text": 3}\n', "line 1: expected"),
        ("bad.jsonl", b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
        ("bad.jsonl", b'{"text": ', "bad.jsonl, line 1"),
        ("empty.jsonl", b"", "at least one text"),
    ],
)
def test_inputs_that_are_refused(key: Path, tmp_path: Path, name: str, content: bytes | None, line: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    flags = [f"--key={key}", f"--tokenizer={TOKENIZER}", f"--input={tmp_path / name}"]
    assert line in the_one_line("watermark", "detect", *flags)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (b"\xff\xfe not JSON", "found what is not JSON"),
        (b"[]", "the fields key, gamma, delta, context_width and no others"),
        (b" " * 5000, "found more than 4096 bytes"),
        ({"seed": 1}, "and no others"),
        ({"key": "xyz"}, "not hexadecimal"),
        ({"key": 12}, "not hexadecimal"),
        ({"key": "abcd"}, "at least 16 secret bytes"),
        ({"gamma": 1.5}, "gamma: 1.5 instead of a number from 0.01"),
        ({"gamma": True}, "a gamma that is not a number"),
        ({"context_width": 1.5}, "a context_width that is not"),
    ],
)
def test_key_files_that_are_refused(key: Path, tmp_path: Path, change: bytes | dict, line: str):
    secret = json.loads(key.read_text())
    key.write_bytes(change if isinstance(change, bytes) else json.dumps(secret | change).encode())
    (tmp_path / "a.txt").write_text(PLAIN)
    said = the_one_line("watermark", "detect", f"--key={key}", f"--tokenizer={TOKENIZER}", f"--input={tmp_path}/a.txt")
    assert line in said
    assert secret["key"] not in said


def test_flags_that_are_refused(tmp_path: Path):
    assert "--gamma" in the_one_line("watermark", "key", f"--out={tmp_path / 'key'}", "--gamma=2")
    assert list(tmp_path.iterdir()) == []
    assert "Did you mean 'detect'" in the_one_line("watermark", "detekt")
    assert "Did you mean '--key'" in the_one_line("watermark", "detect", "--kye=a")
    assert "no such file" in the_one_line("watermark", "key", f"--out={tmp_path / 'no' / 'key'}")


def test_finding_it_needs_no_jax(key: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text(PLAIN)
    arguments = ["detect", f"--key={key}", f"--tokenizer={TOKENIZER}", f"--input={tmp_path / 'a.txt'}", "--json"]
    lines = [
        "import sys",
        f"sys.argv = ['watermark', *{arguments!r}]",
        "from alpaca_jax import watermark",
        "watermark.main()",
        "sys.exit('jax' in sys.modules)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["detected"] is False
