import re
from typing import ClassVar

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.examples import Dropped, Example, Tokenization, encode_prompt, end_ids, make_examples
from alpaca_jax.data.instructions import Conversation, Instruction, Message, Record, read_records
from alpaca_jax.data.prompt import TEMPLATES, Template, render_prompt
from alpaca_jax.data.tokenizer import Tokenizer, load_tokenizer
from alpaca_jax.support.errors import UserError

ALPACA, CHATML = TEMPLATES["alpaca"], TEMPLATES["chatml"]
GUERNICA = Instruction("Who painted Guernica?", "", "Pablo Picasso")
TASKS = [located.record for located in read_records(SEED_TASKS)]


def make_example(
    record: Record, tokenizer: Tokenizer, template: Template, seq_len: int, tokenization: Tokenization = "exact"
) -> Example | Dropped:
    (example,) = make_examples([record], tokenizer, template, seq_len, tokenization)
    return example


def chat(*said, system=None):
    roles = ("user", "assistant") * len(said)
    messages = [Message(*turn) for turn in zip(roles, said, strict=False)]
    return Conversation((*([Message("system", system)] if system else []), *messages))


GREETING = chat("Hi", "Hello", "Bye", "See you")


def columns_of_docstring(mark):
    """The table in `Example`'s docstring whose first row has `mark`."""
    lines = [line.split() for line in Example.__doc__.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[:1] == ["piece"] and mark in line)
    return {line[0]: line[1:] for line in lines[start : lines.index([], start)]}


def columns_of(example, words):
    return {
        "piece": [words.piece(token).strip(" ") for token in example.tokens],
        "tokens": [str(token) for token in example.tokens],
        "loss_mask": ["x" if trained else "." for trained in example.loss_mask],
    }


def test_columns_of_the_docstring(words):
    columns = columns_of_docstring("…")
    gap = columns["piece"].index("…")
    actual = columns_of(make_example(GUERNICA, words, ALPACA, seq_len=512), words)
    assert columns.keys() == actual.keys()
    for name, shown in columns.items():
        after = len(shown) - gap - 1
        assert shown == [*actual[name][:gap], "…", *actual[name][-after:]], name


def test_columns_of_a_chat_in_the_docstring(words):
    columns = columns_of_docstring("⏎")
    actual = columns_of(make_example(GREETING, words, CHATML, seq_len=512), words)
    short = {"<|im_start|>": "[", "<|im_end|>": "]", "\n": "⏎"}
    assert columns["piece"] == [short.get(piece, piece) for piece in actual["piece"]]
    assert columns["loss_mask"] == actual["loss_mask"]


def test_prompt_and_response_are_tokenised_apart_and_join_to_the_whole(words):
    task = Instruction("Add.", "1 and 2", " 3\n")
    example = make_example(task, words, ALPACA, seq_len=512)
    prompt, response = example.tokens[~example.loss_mask], example.tokens[example.loss_mask]
    assert words.decode(prompt) == render_prompt("Add.", "1 and 2")
    assert words.decode(response) == " 3\n"
    assert response[-1] == words.eos_id
    assert example.tokens.tolist() == [*prompt, *response]


@pytest.mark.parametrize("name", ["alpaca", "llama2", "mistral", "zephyr"])
@settings(deadline=None, max_examples=50)
@given(st.lists(st.text().filter(str.strip), min_size=2, max_size=4).filter(lambda said: len(said) != 3))
def test_the_joined_ids_decode_to_the_text_exactly(name, said):
    tokenizer, template = load_tokenizer(TOKENIZER), TEMPLATES[name]
    example = make_example(chat(*said), tokenizer, template, seq_len=10**6)
    starts = np.flatnonzero(np.diff(example.loss_mask.astype(int), prepend=0) == 1)
    ends = np.flatnonzero(example.tokens == tokenizer.eos_id)
    ends = [end for end in ends if example.loss_mask[end]]
    learnt = [tokenizer.decode(example.tokens[start:end]) for start, end in zip(starts, ends, strict=True)]
    strip = str.strip if name == "llama2" else str
    assert [template.answer_in(text) for text in learnt] == [strip(answer) for answer in said[1::2]]
    assert int(example.loss_mask.sum()) == sum(ends) + len(ends) - sum(starts)


@pytest.mark.parametrize("name", ["alpaca", "llama2", "mistral", "zephyr"])
def test_training_sees_what_generation_continues(name):
    tokenizer, template = load_tokenizer(TOKENIZER), TEMPLATES[name]
    example = make_example(GREETING, tokenizer, template, seq_len=512)
    for asked in (GREETING.messages[:1], GREETING.messages[:3]):
        prompt = encode_prompt(Conversation(asked), tokenizer, template)
        assert example.tokens[: len(prompt)].tolist() == prompt
        assert [example.loss_mask[len(prompt) - 1], example.loss_mask[len(prompt)]] == [False, True]


def test_llama2_and_mistral_are_tokenised_as_their_authors_do():
    from sentencepiece import SentencePieceProcessor

    library, ours = SentencePieceProcessor(model_file=str(TOKENIZER)), load_tokenizer(TOKENIZER)
    llama2 = make_example(GREETING, ours, TEMPLATES["llama2"], 512).tokens
    pairs = ["[INST] Hi [/INST] Hello ", "[INST] Bye [/INST] See you "]
    assert llama2.tolist() == [id for pair in pairs for id in [1, *library.encode(pair), 2]]
    mistral = make_example(GREETING, ours, TEMPLATES["mistral"], 512).tokens
    turns = [("[INST] Hi [/INST]", "Hello"), ("[INST] Bye [/INST]", "See you")]
    encode = library.encode
    assert mistral.tolist() == [1, *(id for ask, answer in turns for id in [*encode(ask), *encode(answer), 2])]


def test_a_batch_is_what_its_records_are_one_by_one():
    tokenizer = load_tokenizer(TOKENIZER)
    records = [*TASKS[:30], GREETING, Instruction("a", "", " "), *TASKS[30:40], chat("x" * 900, "y")]
    for name in ("alpaca", "llama2"):
        for tokenization in ("exact", "stanford"):
            together = make_examples(records, tokenizer, TEMPLATES[name], 100, tokenization)
            apart = [make_example(record, tokenizer, TEMPLATES[name], 100, tokenization) for record in records]
            plain = lambda example: (  # noqa: E731
                example if isinstance(example, Dropped) else (*example.tokens, *example.loss_mask, example.truncated)
            )
            assert [plain(example) for example in together] == [plain(example) for example in apart]
            assert {type(example) for example in together} == {Example, Dropped}


def test_one_token_more_than_a_row_fits_and_the_next_is_cut(words):
    whole = make_example(GUERNICA, words, ALPACA, seq_len=512)
    n = len(whole.tokens)
    fitting = make_example(GUERNICA, words, ALPACA, seq_len=n - 1)
    cut = make_example(GUERNICA, words, ALPACA, seq_len=n - 2)
    assert (len(fitting.tokens), fitting.truncated, fitting.tokens[-1]) == (n, False, words.eos_id)
    assert (len(cut.tokens), cut.truncated) == (n - 1, True)
    assert words.eos_id not in cut.tokens
    assert cut.loss_mask.tolist() == whole.loss_mask[:-1].tolist()


def test_what_follows_the_last_trained_token_of_a_cut_chat_is_cut_too(words):
    whole = make_example(GREETING, words, CHATML, seq_len=512)
    first, second = np.split(np.flatnonzero(whole.loss_mask), [2])
    for seq_len in range(first[-1], second[0]):
        cut = make_example(GREETING, words, CHATML, seq_len)
        assert (len(cut.tokens), cut.truncated) == (first[1] + 1, True)
    assert len(make_example(GREETING, words, CHATML, int(second[0])).tokens) == second[0] + 1


@pytest.mark.parametrize(("record", "template"), [(GUERNICA, ALPACA), (GREETING, CHATML)])
def test_a_prompt_must_leave_room_for_one_trained_token(words, record, template):
    asked = record if record is GUERNICA else Conversation(GREETING.messages[:1])
    prompt = len(encode_prompt(asked, words, template))
    least = make_example(record, words, template, seq_len=prompt)
    assert (int(least.loss_mask.sum()), least.truncated) == (1, True)
    assert make_example(record, words, template, seq_len=prompt - 1) == Dropped("prompt_too_long")


@pytest.mark.parametrize("answer", ["", " ", "\n\t "])
def test_a_blank_answer_is_dropped(words, answer):
    assert make_example(Instruction("Say nothing.", "", answer), words, ALPACA, 512) == Dropped("empty_output")
    assert make_example(chat("a", "b", "c", answer), words, CHATML, 512) == Dropped("empty_output")
    assert make_example(chat("a", answer, "c", "d"), words, CHATML, 512) == Dropped("empty_output")


def original_way(prompt, output, tokenize, eos, length):
    """The ids and the mask of the original release, from its description."""
    source, whole = tokenize(prompt)[:length], [*tokenize(prompt + output), eos][:length]
    return whole, [number >= len(source) for number in range(len(whole))]


@pytest.mark.parametrize("seq_len", [40, 96, 512])
def test_the_original_way_of_tokenising(seq_len):
    from sentencepiece import SentencePieceProcessor

    library, tokenizer = SentencePieceProcessor(model_file=str(TOKENIZER)), load_tokenizer(TOKENIZER)
    odd = [Instruction("Quote.", "", text) for text in (" a", "  a", "\n", "\na ", ":", "▁", "é", "</s>")]
    for record in TASKS + odd:
        made = make_example(record, tokenizer, ALPACA, seq_len, "stanford")
        prompt = render_prompt(record.instruction, record.input)
        tokens, mask = original_way(prompt, record.output, lambda t: [1, *library.encode(t)], 2, seq_len)
        if isinstance(made, Dropped):
            assert made.reason == ("prompt_too_long" if record.output.strip() else "empty_output")
            assert not record.output.strip() or True not in mask
            continue
        assert (made.tokens.tolist(), made.loss_mask.tolist()) == (tokens, mask)


def test_the_original_way_masks_a_token_that_merged_with_the_prompt_s_end(tmp_path):
    prompt = render_prompt("Q")
    vocabulary = {piece: id for id, piece in enumerate([*sorted({*prompt, *'"a'}), ':"', "</s>"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges=[(":", '"')]))
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, record = load_tokenizer(tmp_path), Instruction("Q", "", '"a"')
    exact = make_example(record, tokenizer, ALPACA, 512)
    stanford = make_example(record, tokenizer, ALPACA, 512, "stanford")
    pieces = lambda example: [tokenizer.piece(id) for id in example.tokens[example.loss_mask]]  # noqa: E731
    assert pieces(exact) == ['"', "a", '"', "</s>"]
    assert pieces(stanford) == ["a", '"', "</s>"]
    assert tokenizer.piece(stanford.tokens[-4]) == ':"'
    assert len(stanford.tokens) == len(exact.tokens) - 1


class Unsuited:
    """A tokenizer with the special tokens of a base model, and some of names that templates write as text."""

    bos_id, eos_id = None, 2
    special_ids: ClassVar = {"</s>": 2, "[INST]": 5, "<|user|>": 6}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("chatml", r"<|im_start|> as a special token; found none"),
        ("llama3", r"<|start_header_id|> as a special token; found none"),
        ("mistral", r"a token that begins a text (bos); found none"),
        ("zephyr", r"<|user|> to be text; found a special token of that name"),
    ],
)
def test_a_tokenizer_that_does_not_suit_the_template_is_refused_by_name(template, said):
    expected = f"tokenizer, for the template '{template}': expected {said}"
    for refused in (make_example, encode_prompt):
        with pytest.raises(UserError, match=re.escape(expected)):
            refused(GREETING, Unsuited(), TEMPLATES[template], *([512] if refused is make_example else []))


def test_a_special_token_of_another_version_of_the_template_is_refused():
    class V3(Unsuited):
        bos_id = 1

    with pytest.raises(UserError, match=r"template 'mistral': expected \[INST\] to be text"):
        encode_prompt(GREETING, V3(), TEMPLATES["mistral"])


def test_the_tokens_that_end_an_answer(words):
    assert end_ids(CHATML, words) == {2, 4}
    assert end_ids(ALPACA, words) == {2}
