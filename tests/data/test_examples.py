import pytest

from alpaca_jax.data.examples import Dropped, Example, make_example
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.data.prompt import render_prompt

GUERNICA = Instruction("Who painted Guernica?", "", "Pablo Picasso")


def test_columns_of_the_docstring(words):
    columns = {
        line.split()[0]: line.split()[1:]
        for line in Example.__doc__.splitlines()
        if line.startswith(" " * 8) and "…" in line
    }
    gap = columns["piece"].index("…")
    example = make_example(GUERNICA, words, seq_len=512)
    actual = {
        "piece": [words.piece(token).strip() for token in example.tokens],
        "tokens": [str(token) for token in example.tokens],
        "loss_mask": ["x" if trained else "." for trained in example.loss_mask],
    }
    assert columns.keys() == actual.keys()
    for name, shown in columns.items():
        after = len(shown) - gap - 1
        assert shown == [*actual[name][:gap], "…", *actual[name][-after:]], name


def test_prompt_and_response_are_tokenised_apart_and_join_to_the_whole(words):
    task = Instruction("Add.", "1 and 2", " 3\n")
    example = make_example(task, words, seq_len=512)
    prompt, response = example.tokens[~example.loss_mask], example.tokens[example.loss_mask]
    assert words.decode(prompt) == render_prompt("Add.", "1 and 2")
    assert words.decode(response) == " 3\n"
    assert response[-1] == words.eos_id
    assert example.tokens.tolist() == [*prompt, *response]


def test_one_token_more_than_a_row_fits_and_the_next_is_cut(words):
    whole = make_example(GUERNICA, words, seq_len=512)
    n = len(whole.tokens)
    fitting = make_example(GUERNICA, words, seq_len=n - 1)
    cut = make_example(GUERNICA, words, seq_len=n - 2)
    assert (len(fitting.tokens), fitting.truncated, fitting.tokens[-1]) == (n, False, words.eos_id)
    assert (len(cut.tokens), cut.truncated) == (n - 1, True)
    assert words.eos_id not in cut.tokens
    assert cut.loss_mask.tolist() == whole.loss_mask[:-1].tolist()


def test_a_prompt_must_leave_room_for_one_trained_token(words):
    prompt = len(words.encode_prompt(render_prompt(GUERNICA.instruction)))
    least = make_example(GUERNICA, words, seq_len=prompt)
    assert int(least.loss_mask.sum()) == 1
    assert make_example(GUERNICA, words, seq_len=prompt - 1) == Dropped("prompt_too_long")


@pytest.mark.parametrize("output", ["", " ", "\n\t "])
def test_a_blank_output_is_dropped(words, output):
    assert make_example(Instruction("Say nothing.", "", output), words, seq_len=512) == Dropped("empty_output")
