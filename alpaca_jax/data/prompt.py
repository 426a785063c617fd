"""The prompt templates: the only place that says how a record becomes text, for training and for generation alike.

Published weights answer worse if one byte of their template differs.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from alpaca_jax.data.instructions import Conversation, Instruction, Record
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_json

_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_TASK = "### Instruction:\n{instruction}\n\n### Response:"
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)

BOS, EOS = "{bos}", "{eos}"


class Segment(NamedTuple):
    """A stretch of a record: text, or one special token.

    Attributes:
      text: the text; of a special token its name, or `BOS` or `EOS` for those of the tokenizer.
      special: whether it is a special token. No text is ever read as one.
      trained: whether it is to be learnt.
    """

    text: str
    special: bool = False
    trained: bool = False


@dataclasses.dataclass(frozen=True)
class Template:
    """How a record is written, as patterns.

    In a pattern stand `{system}`, `{instruction}` (what the user says), `{input}` and `{output}` (what the assistant
    says), each perhaps with `|strip` or `|rstrip` for white space that the template takes off; `{bos}` and `{eos}`;
    and the special tokens. An answer's pattern is trained from its first to its last token; its last token is the one
    that ends an answer. Nothing else is trained.

    Attributes:
      name: what `--template` calls it.
      first: the prompt of the first turn.
      first_with_system: the same with a system message.
      later: the prompt of a later turn.
      answer: what follows a prompt.
      first_with_input: the prompt for an instruction with an input; None where the input just follows the instruction,
        after a blank line.
      special_tokens: those the patterns name; a tokenizer must have each as one id.
      default_system: the system message of a record that has none of its own.
    """

    name: str
    first: str
    first_with_system: str
    later: str
    answer: str
    first_with_input: str | None = None
    special_tokens: tuple[str, ...] = ()
    default_system: str | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """The hash that travels with datasets and checkpoints, so that a mismatch can be refused."""
        if self.first_with_input is not None:
            # Of Alpaca's two published texts alone; its other forms are cut out of these.
            return sha256_json([self.first_with_input, self.first])
        return sha256_json(dataclasses.asdict(self))

    def segments(self, record: Record) -> list[Segment]:
        """The whole of a record whose last word is an answer."""
        return self._write(record, answered=True)

    def prompt(self, record: Record) -> list[Segment]:
        """What a model is asked to continue: a chat that ends with the user, or an instruction without its output."""
        return self._write(record, answered=False)

    def answer_in(self, text: str) -> str:
        """An answer out of a generated text: without the spaces that the template, not the writer, puts around it."""
        before, _, after = self.answer.partition("{output")
        return text.strip() if after.startswith("|strip}") else text.removeprefix(before)

    @property
    def end(self) -> str:
        """The special token that ends an answer."""
        return self._parts(self.answer)[-1][1]

    def literals(self) -> list[str]:
        """The texts that the patterns themselves write."""
        patterns = [self.first, self.first_with_system, self.later, self.answer, self.first_with_input or ""]
        return [text for pattern in patterns for kind, text in self._parts(pattern) if kind == "text"]

    def _write(self, record: Record, answered: bool) -> list[Segment]:
        if isinstance(record, Instruction):
            turns, system, pattern = [(record.instruction, record.output)], self.default_system, self.first
            fields = {"input": record.input}
            if record.input and self.first_with_input is not None:
                pattern = self.first_with_input
            elif record.input:
                turns = [(record.question, record.output)]
        else:
            turns, system, pattern, fields = _turns(record), record.system, self.first, {}
            system = self.default_system if system is None else system
        if system is not None:
            pattern, fields["system"] = self.first_with_system, system
        segments: list[Segment] = []
        for number, (said, answer) in enumerate(turns):
            fields |= {"instruction": said, "output": answer}
            segments += self._fill(self.later if number else pattern, fields, trained=False)
            if answered or number + 1 < len(turns):
                segments += self._fill(self.answer, fields, trained=True)
        return segments

    def _fill(self, pattern: str, fields: dict[str, str], trained: bool) -> list[Segment]:
        """A pattern with its fields filled in: text between special tokens is one segment."""
        segments: list[Segment] = []
        text = ""
        for kind, value in self._parts(pattern):
            if kind == "special":
                if text:
                    segments.append(Segment(text, trained=trained))
                segments.append(Segment(value, special=True, trained=trained))
                text = ""
            else:
                text += value if kind == "text" else _field(value, fields)
        return [*segments, Segment(text, trained=trained)] if text else segments

    def _parts(self, pattern: str) -> tuple[tuple[Literal["text", "field", "special"], str], ...]:
        return _parse(pattern, self.special_tokens)


@functools.cache
def _parse(
    pattern: str, special_tokens: tuple[str, ...]
) -> tuple[tuple[Literal["text", "field", "special"], str], ...]:
    """A pattern's literal texts, fields and special tokens, in order."""
    special = (BOS, EOS, *special_tokens)
    names = "|".join(map(re.escape, special))
    parts: list[tuple[Literal["text", "field", "special"], str]] = []
    for part in filter(None, re.split(rf"({names}|{{[a-z|]+}})", pattern)):
        if part in special:
            parts.append(("special", part))
        else:
            parts.append(("field", part[1:-1]) if re.fullmatch(r"{[a-z|]+}", part) else ("text", part))
    return tuple(parts)


def _field(name: str, fields: dict[str, str]) -> str:
    """A field's text, its white space taken off where the pattern says so."""
    name, _, change = name.partition("|")
    text = fields[name]
    return text.strip() if change == "strip" else text.rstrip() if change == "rstrip" else text


def _turns(conversation: Conversation) -> list[tuple[str, str]]:
    """What the user says and what the assistant answers, turn by turn; empty where it has not answered yet."""
    texts = [message.content for message in conversation.messages if message.role != "system"]
    return list(zip(texts[::2], [*texts[1::2], ""], strict=False))


def _chatml(name: str, default_system: str | None = None) -> Template:
    turn = "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
    return Template(
        name,
        first=turn,
        first_with_system="<|im_start|>system\n{system}<|im_end|>\n" + turn,
        later="\n" + turn,
        answer="{output}<|im_end|>",
        special_tokens=("<|im_start|>", "<|im_end|>"),
        default_system=default_system,
    )


def _llama3_turn(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


_LLAMA3_ASK = _llama3_turn("user") + "{instruction|strip}<|eot_id|>" + _llama3_turn("assistant")
_ZEPHYR_ASK = "<|user|>\n{instruction}{eos}\n<|assistant|>\n"

_ALL = (
    # Stanford Alpaca. A further turn repeats the part below the preamble; a system message replaces the preamble.
    Template(
        "alpaca",
        first=_PREAMBLE + _TASK,
        first_with_system="{system}\n\n" + _TASK,
        later="\n\n" + _TASK,
        answer="{output}{eos}",
        first_with_input=_WITH_INPUT,
    ),
    # ChatML; the models' own templates differ in the system message that they add where there is none.
    _chatml("chatml"),
    _chatml("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    _chatml("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    # LLaMA 3's (3.1 and later add a system message with the day's date where tools are offered; this one does not).
    Template(
        "llama3",
        first="{bos}" + _LLAMA3_ASK,
        first_with_system="{bos}" + _llama3_turn("system") + "{system|strip}<|eot_id|>" + _LLAMA3_ASK,
        later=_LLAMA3_ASK,
        answer="{output|strip}<|eot_id|>",
        special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    # LLaMA 2 Chat: each turn is a sequence of its own.
    Template(
        "llama2",
        first="{bos}[INST] {instruction|strip} [/INST]",
        first_with_system="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{instruction|rstrip} [/INST]",
        later="{bos}[INST] {instruction|strip} [/INST]",
        answer=" {output|strip} {eos}",
    ),
    # Mistral 7B Instruct v0.1 and v0.2, whose [INST] is text; in v0.3 it is a special token.
    Template(
        "mistral",
        first="{bos}[INST] {instruction} [/INST]",
        first_with_system="{bos}[INST] {system}\n\n{instruction} [/INST]",
        later="[INST] {instruction} [/INST]",
        answer=" {output}{eos}",
    ),
    # Zephyr and TinyLlama Chat.
    Template(
        "zephyr",
        first=_ZEPHYR_ASK,
        first_with_system="<|system|>\n{system}{eos}\n" + _ZEPHYR_ASK,
        later="\n" + _ZEPHYR_ASK,
        answer="{output}{eos}",
    ),
)

TEMPLATES: Mapping[str, Template] = MappingProxyType({template.name: template for template in _ALL})
DEFAULT_TEMPLATE = "alpaca"


def template_named(name: str, subject: str = "--template") -> Template:
    """The template of that name.

    Raises:
      UserError: there is none; `subject` says where the name stood.
    """
    if name not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise UserError(subject, expected=f"one of {known}", found=repr(name), remedy="choose one of these")
    return TEMPLATES[name]


def check_template(name: object, sha256: object, subject: str, remedy: str) -> Template:
    """The template that a dataset or a checkpoint was made with, by the name and the hash that lie in it.

    Raises:
      UserError: this version has no such template, or another one of that name.
    """
    template = TEMPLATES.get(name) if isinstance(name, str) else None
    if template is None or template.sha256 != sha256:
        ours = f"{template.sha256[:12]}…" if template else f"one of {', '.join(TEMPLATES)}"
        raise UserError(
            subject,
            expected=f"one made with this version's prompt template {name!r} ({ours})",
            found=f"another template ({str(sha256)[:12]}…)",
            remedy=remedy,
        )
    return template


def render_prompt(instruction: str, input: str = "") -> str:
    r"""The text that Alpaca's template makes of an instruction; an empty `input` selects the shorter form.

    >>> render_prompt("Add.", "1 and 2")[-43:]
    'Add.\n\n### Input:\n1 and 2\n\n### Response:'
    """
    (segment,) = TEMPLATES["alpaca"].prompt(Instruction(instruction, input, ""))
    return segment.text
