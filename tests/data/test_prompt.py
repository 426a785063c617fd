import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.instructions import Conversation, Instruction, Message
from alpaca_jax.data.prompt import (
    TEMPLATES,
    Segment,
    check_template,
    render_prompt,
    template_named,
)
from alpaca_jax.support.errors import UserError

WITH_INPUT = (
    b"Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    b"response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:"
)
WITHOUT_INPUT = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    b"### Instruction:\nI\n\n### Response:"
)
TURNS = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you")]
CHAT = Conversation(tuple(Message(*turn) for turn in TURNS))
WITH_SYSTEM = Conversation((Message("system", "Be brief."), *CHAT.messages))


def written(segments):
    return "".join({"{bos}": "<s>", "{eos}": "</s>"}.get(s.text, s.text) if s.special else s.text for s in segments)


def trained(segments):
    return [segment.text for segment in segments if segment.trained]


def test_byte_for_byte():
    assert render_prompt("I", "X").encode() == WITH_INPUT
    assert render_prompt("I").encode() == WITHOUT_INPUT
    assert render_prompt("I", " ").encode() == WITH_INPUT.replace(b"X", b" ")


def test_the_hash_is_the_one_in_published_datasets():
    assert TEMPLATES["alpaca"].sha256 == "0408e48f78ae4c55130712fc83d9172df6d3b22a8fcd56dfd34838dd26d9ce39"


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_texts_are_taken_as_they_are(instruction, input):
    assert f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:" in render_prompt(
        instruction, input
    )


def test_an_instruction_is_prompt_answer_and_end():
    record = Instruction("I", "X", " {output}{eos}")
    assert TEMPLATES["alpaca"].segments(record) == [
        Segment(WITH_INPUT.decode()),
        Segment(" {output}{eos}", trained=True),
        Segment("{eos}", special=True, trained=True),
    ]
    assert TEMPLATES["alpaca"].prompt(record) == [Segment(WITH_INPUT.decode())]


def test_alpacas_further_turns_and_system_message():
    task = "### Instruction:\n{}\n\n### Response:"
    turns = task.format("Hi") + "Hello</s>\n\n" + task.format("Bye") + "See you</s>"
    assert written(TEMPLATES["alpaca"].segments(CHAT)) == WITHOUT_INPUT.decode().split("###")[0] + turns
    assert written(TEMPLATES["alpaca"].segments(WITH_SYSTEM)) == "Be brief.\n\n" + turns


EXPECTED = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you<|im_end|>",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    "\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant"
    "<|end_header_id|>\n\nSee you<|eot_id|>",
    "llama2": "<s>[INST] Hi [/INST] Hello </s><s>[INST] Bye [/INST] See you </s>",
    "mistral": "<s>[INST] Hi [/INST] Hello</s>[INST] Bye [/INST] See you</s>",
    "zephyr": "<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nBye</s>\n<|assistant|>\nSee you</s>",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_chat_as_published(name):
    assert written(TEMPLATES[name].segments(CHAT)) == EXPECTED[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_is_trained_with_its_end_and_nothing_else(name):
    template = TEMPLATES[name]
    for record, answers in ((WITH_SYSTEM, ["Hello", "See you"]), (Instruction("I", "X", "Hello"), ["Hello"])):
        learnt = trained(template.segments(record))
        assert [template.answer_in(text) for text in learnt[::2]] == answers
        assert set(learnt[1::2]) == {template.end}
        whole = template.segments(record)
        assert written(whole[: len(template.prompt(record))]) == written(template.prompt(record))
    asked = Conversation(CHAT.messages[:3])
    assert written(template.segments(CHAT)).startswith(written(template.prompt(asked)))
    assert trained(template.prompt(asked)) == trained(template.segments(CHAT))[:2]


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"alpaca"}))
def test_in_a_chat_template_the_input_follows_the_instruction(name):
    instruction, chat = Instruction("I", "X", "Hello"), [Message("user", "I\n\nX"), Message("assistant", "Hello")]
    assert TEMPLATES[name].segments(instruction) == TEMPLATES[name].segments(Conversation(tuple(chat)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_text_that_spells_a_special_token_or_a_field_stays_text(name):
    template = TEMPLATES[name]
    text = "{bos}{eos}{instruction}{output|strip}</s>" + "".join(template.special_tokens)
    record = Conversation((Message("user", text), Message("assistant", text)))
    segments = template.segments(record)
    assert sum(text in segment.text for segment in segments if not segment.special) == 2
    plain = Conversation((Message("user", "a"), Message("assistant", "a")))
    assert [s.special for s in segments] == [s.special for s in template.segments(plain)]


def test_the_hashes_differ_and_a_mismatch_is_refused():
    assert len({template.sha256 for template in TEMPLATES.values()}) == len(TEMPLATES)
    for name, template in TEMPLATES.items():
        assert check_template(name, template.sha256, "data", "prepare again") is template
    for name, sha256 in (("alpaca", TEMPLATES["chatml"].sha256), ("new", "0" * 64), (None, None), ([], 3)):
        with pytest.raises(UserError, match=r"^data: expected one made with this version's .*another template"):
            check_template(name, sha256, "data", "prepare again")
    with pytest.raises(UserError, match=r"--template: expected one of alpaca, .*zephyr; found 'chat-ml'"):
        template_named("chat-ml")
