"""What a model wrote, as tasks, as far as it can be understood: each task is whole or rejected with a reason."""

import json
import re
from typing import Any, Literal, TypeAlias

from alpaca_jax.data.audit.markers import empty_output, no_output, noinput
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.remote.log import Choice

# Why a task is not taken, in the order in which tasks are looked at; the filters' reasons follow.
Unusable: TypeAlias = Literal["unreadable", "truncated", "empty_output", "no_output"]
Parsed: TypeAlias = Instruction | Unusable

# Servers' words for an answer that ended of itself. Any other (`length`, `content_filter`, none) may have cut it.
_ENDED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence"}

# `4. Instruction:` at the beginning of a line, also as `**4. Instruction:**`, `### 4) instruction :`.
_HEAD = re.compile(
    r"^[ \t>*#_]*(?P<number>\d{1,3})[ \t]*[.):][ \t*_]*(?P<field>Instruction|Input|Output)[ \t*_]*:[*_]*", re.M | re.I
)
_LIST = re.compile(r'\{\s*"tasks"\s*:\s*\[|\[(?=\s*\{\s*")')
_RULE = re.compile(r"(?:(?:^|\n)[ \t]*[#=*_-]{2,}[ \t]*(?:\d{1,3}[.)]?)?[ \t]*)+\s*\Z")
_FENCE = re.compile(r"^\s*```[a-z]*\s*$", re.M | re.I)


def was_cut(choice: Choice) -> bool:
    """Whether an answer may have ended before its end."""
    return choice.finish not in _ENDED


def parse_tasks(choice: Choice, continues: int | None) -> list[Parsed]:
    """The tasks in an answer, in either form, whatever was asked for.

    Args:
      choice: the answer.
      continues: the number of the task within whose instruction the prompt ended; None where the model answers.
    """
    start, head = _LIST.search(choice.text), _HEAD.search(choice.text)
    if continues is None and start and not (head and head.start() < start.start()):
        return _from_json(choice.text, start.end())
    return _from_numbered(choice, continues)


def _from_json(text: str, at: int) -> list[Parsed]:
    """The whole objects of a list that begins before `at`; what follows the last whole one is rejected once."""
    decoder, tasks = json.JSONDecoder(strict=False), list[Parsed]()
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(", \t\r\n"))
        if at >= len(text):
            return [*tasks, "truncated"]
        if text[at] == "]":
            return tasks
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            # A list that breaks off, or one that is damaged: where it goes on cannot be known.
            return [*tasks, "unreadable" if text.rstrip().endswith(("]", "}", "`")) else "truncated"]
        tasks.append(_task(value) if isinstance(value, dict) else "unreadable")


def _task(fields: dict[str, Any]) -> Parsed:
    """A task of texts, cleaned; an input may be missing."""
    values = [fields.get("instruction"), fields.get("input") or "", fields.get("output")]
    texts = [value.strip() for value in values if isinstance(value, str) and _is_text(value)]
    if len(texts) < len(values):
        return "unreadable"
    task = Instruction(*texts)
    if (found := noinput(task)) and found.result:
        (task,) = found.result
    if not task.instruction:
        return "unreadable"
    if empty_output(task):
        return "empty_output"
    return "no_output" if no_output(task) else task


def _is_text(value: str) -> bool:
    """Whether a file can hold it: a model may write half of a surrogate pair in JSON, or NUL."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _from_numbered(choice: Choice, continues: int | None) -> list[Parsed]:
    """Tasks by number and field; the last of an answer that was cut is not whole."""
    text = choice.text
    if continues is not None:
        text = f"{continues}. Instruction:{text}"
    text = _FENCE.sub("", text)
    heads = list(_HEAD.finditer(text))
    if not heads:
        return ["truncated" if was_cut(choice) else "unreadable"] if text.strip() else []
    # An instruction opens a task; its other fields bear its number. Another number is text of the field it stands in.
    tasks = list[dict[str, Any]]()
    used, number = list[tuple[int, int, str]](), ""
    for head in heads:
        field = head["field"].lower()
        if field == "instruction" or head["number"] == number:
            number = head["number"]
            used.append((head.start(), head.end(), field))
    if not used:
        return ["unreadable"]
    ends = [start for start, _, _ in used[1:]] + [len(text)]
    for (_, begin, field), end in zip(used, ends, strict=True):
        if field == "instruction":
            tasks.append({})
        twice = field in tasks[-1]  # which is meant cannot be known
        tasks[-1][field] = None if twice else _RULE.sub("", text[begin:end]).strip()
    parsed: list[Parsed] = [_task(task) for task in tasks]
    if was_cut(choice):
        parsed[-1] = "truncated"
    return parsed


_LISTED = re.compile(r"^[ \t*]*\d{1,3}[ \t]*[.)][ \t*]*", re.M)


def parse_instructions(choice: Choice, continues: int) -> list[str | Unusable]:
    """The instructions of a numbered list that the prompt began, up to `continues`."""
    text = choice.text if _LISTED.match(choice.text) else f"{continues}.{choice.text}"
    starts = list(_LISTED.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    texts = [" ".join(text[start.end() : end].split()) for start, end in zip(starts, ends, strict=True)]
    parsed: list[str | Unusable] = [text if text and _is_text(text) else "unreadable" for text in texts]
    if was_cut(choice):
        parsed[-1] = "truncated"
    return parsed


_FIELD = re.compile(r"^[ \t>*#_]*(Input|Output)[ \t*_]*:[*_]*", re.M | re.I)


def parse_instances(choice: Choice, instruction: str, *, output_first: bool) -> list[Parsed]:
    """The instances of an instruction, each a pair of an input and an output in the order that was asked for."""
    text = choice.text.split("\nTask:")[0]
    heads = list(_FIELD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    opens = "output" if output_first else "input"
    instances = list[dict[str, Any]]()
    if not heads:
        return ["truncated" if was_cut(choice) else "unreadable"]
    for head, end in zip(heads, ends, strict=True):
        field = head[1].lower()
        if field == opens or not instances:
            instances.append({"instruction": instruction})
        if field in instances[-1]:
            instances[-1]["output"] = None  # one of two: which is meant cannot be known
        else:
            body = re.sub(r"\n[ \t*#]*Example \d+[ \t*:.]*\s*\Z", "", text[head.end() : end])
            instances[-1][field] = _RULE.sub("", body).strip()
    parsed: list[Parsed] = [_task(instance) for instance in instances]
    if was_cut(choice):
        parsed[-1] = "truncated"
    return parsed


def parse_yes(choice: Choice) -> bool:
    """Whether an answer says yes."""
    return bool(re.match(r"\W*(?:classification:)?\W*yes\b", choice.text, re.I))


def parse_score(choice: Choice) -> int | None:
    """The first whole number from 1 to 10 in an answer, if there is one."""
    match = re.search(r"(?<![\d.])(?:10|[1-9])(?![\d]|\.\d)", choice.text)
    return int(match[0]) if match else None
