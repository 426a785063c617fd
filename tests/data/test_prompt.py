from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.prompt import render_prompt, template_sha256

WITH_INPUT = (
    b"Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    b"response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:"
)
WITHOUT_INPUT = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    b"### Instruction:\nI\n\n### Response:"
)


def test_byte_for_byte():
    assert render_prompt("I", "X").encode() == WITH_INPUT
    assert render_prompt("I").encode() == WITHOUT_INPUT
    assert render_prompt("I", " ").encode() == WITH_INPUT.replace(b"X", b" ")


def test_the_hash_is_the_one_in_published_datasets():
    assert template_sha256() == "0408e48f78ae4c55130712fc83d9172df6d3b22a8fcd56dfd34838dd26d9ce39"


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_texts_are_taken_as_they_are(instruction, input):
    assert f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:" in render_prompt(
        instruction, input
    )
