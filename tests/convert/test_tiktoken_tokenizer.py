"""LLaMA 3's list of tokens as a tokenizer.json: the ids that tiktoken gives with the same list."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tiktoken_file
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.convert.tiktoken_tokenizer import is_tiktoken, special_tokens, write_tokenizer
from alpaca_jax.data.tokenizer import Tokenizer, load_tokenizer
from alpaca_jax.support.errors import UserError

# As Meta publishes it.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
# What the pattern and the merges treat each in its own way.
_PIECES = [
    *"aathe  \n\t\r123é'sTLVE.-",
    "'RE",
    "ſ",
    "ß",
    "\u0085",
    "\u200b",
    "\x1c",
    "²",
    "Ⅷ",
    "東京",
    "🙂",
    "при",
    "aaa",
    "1234",
    "qzqz",
]
_TEXTS = st.text(max_size=30) | st.lists(st.sampled_from(_PIECES), max_size=30).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiktoken")
    tiktoken_file.write(folder / "tokenizer.model")
    (folder / "written").mkdir()
    write_tokenizer(folder / "tokenizer.model", folder / "written", since_3_1=True)
    return folder / "written"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@settings(max_examples=400, deadline=None)
@given(text=_TEXTS)
def test_ids_are_tiktokens(text: str, tokenizer: Tokenizer) -> None:
    ranks = tiktoken_file.ranks()
    reference = tiktoken.Encoding("reference", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ids = tokenizer.encode_response(text)
    assert ids == reference.encode_ordinary(text)
    assert tokenizer.encode_prompt(text) == [len(ranks), *ids]
    assert tokenizer.decode(ids) == text


def test_a_turn_in_metas_way(folder: Path, tokenizer: Tokenizer) -> None:
    ranks = tiktoken_file.ranks()
    first = len(ranks)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (first, first + 1, first + 256)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>").input_ids
    assert ids[:2] == [first, first + 6]
    assert ids[-1] == first + 9
    assert first + 7 in ids


def test_names_of_the_special_tokens() -> None:
    before, since = special_tokens(since_3_1=False), special_tokens(since_3_1=True)
    assert len(set(before)) == len(set(since)) == 256
    # The ends of both lists, and what lies around the names that 3.1 gave.
    assert before[2:6] == [f"<|reserved_special_token_{number}|>" for number in range(4)]
    assert before[8:11] == ["<|reserved_special_token_4|>", "<|eot_id|>", "<|reserved_special_token_5|>"]
    assert before[255] == "<|reserved_special_token_250|>"
    assert since[4:6] == ["<|finetune_right_pad_id|>", "<|reserved_special_token_2|>"]
    assert since[8:12] == ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>"]
    assert since[255] == "<|reserved_special_token_247|>"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda content: content.replace(b"YWE= ", b"YQ== "), "doubled or missing"),
        (lambda content: content.replace(b" 300\n", b" 999\n"), "doubled or missing"),
        (lambda content: content[:-2] + b"\n", "doubled or missing"),
        (lambda content: content.replace(b" 300\n", b" three hundred\n"), "line 301"),
        (lambda content: content.replace(b" 300\n", b"\n"), "line 301"),
        (lambda content: content.replace(b"YWE= ", b"YW!= "), "in line"),
        (lambda content: content.replace(b"YWE= ", b" "), "in line"),
        (lambda content: content.replace(b"AA== 0\n", b"YWFhYWFhYQ== 0\n"), "none for 0x00"),
    ],
)
def test_a_damaged_list_is_refused(damage: Callable[[bytes], bytes], named: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    tiktoken_file.write(path)
    assert is_tiktoken(path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(UserError, match=named):
        write_tokenizer(path, tmp_path, since_3_1=False)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.model"]


def test_other_files_are_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for content in (b"", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", b"{}", b"word 1"):
        path.write_bytes(content)
        assert not is_tiktoken(path)
