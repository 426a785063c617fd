"""Marks of the generation format that stayed in the text: empty inputs spelt out, outputs not given, merged records."""

import dataclasses
import itertools
import re

from alpaca_jax.data.audit.kinds import Found, excerpt
from alpaca_jax.data.instructions import Instruction

_EDGE = r"[\s\W_]*"
_NO_INPUT = re.compile(
    rf"{_EDGE}no[\s_-]*input(?:\s+(?:is\s+|was\s+)?(?:required|needed|necessary|provided|given|available))?{_EDGE}",
    re.I,
)
# Words that mean an empty input unless the instruction speaks of an input: "Translate this word", `None`.
_NOTHING = re.compile(rf"{_EDGE}(?:n/?a|n\.a\.|none|null|nil|nothing|empty|not applicable){_EDGE}", re.I)
_SPEAKS_OF_INPUT = re.compile(
    r"\b(?:given|following|this|these|that|those|below|above|provided|input|words?|sentence|phrase|term|text|value|title)\b",
    re.I,
)
_MARKER = re.compile(r"[`'\"]?[<\[{(] ?no[ _-]?input ?[>\]})][`'\"]?\.?", re.I)
_ANGLE_MARKER = re.compile(r"`?< ?no[ _-]?input ?>`?\.?", re.I)


def noinput(task: Instruction) -> Found | None:
    """An empty input that is spelt out, alone in the input or as a marker beside other text."""
    nothing = _NOTHING.fullmatch(task.input) and not _SPEAKS_OF_INPUT.search(task.instruction)
    if nothing or _NO_INPUT.fullmatch(task.input):
        result = dataclasses.replace(task, input="")
        return Found("noinput", "the input says that there is none", excerpt(task.input), (result,))
    for field, marker in (("input", _MARKER), ("instruction", _ANGLE_MARKER), ("output", _ANGLE_MARKER)):
        text: str = getattr(task, field)
        if match := marker.search(text):
            left = marker.sub("", text).strip()
            # What stands beside the marker may be the number of the task that came next.
            left = "" if field == "input" and re.fullmatch(r"[\d.#\s]*", left) else left
            why = f"the marker stands in the {field}"
            result = dataclasses.replace(task, **{field: left})
            return Found("noinput", why, excerpt(text, match.start()), (result,))
    return None


_NO_OUTPUT = re.compile(rf"{_EDGE}no[\s_-]*output\b(?:\W+\w+){{0,40}}{_EDGE}", re.I)
_NOT_APPLICABLE = re.compile(r"\W*(?:n/a|not applicable)\W*", re.I)
_PLACEHOLDER = re.compile(
    r"\s*(?:<[A-Za-z]+(?:[ /-]+[A-Za-z]+)+>"
    r"|\[(?:image|picture|photo|drawing|sketch|graph|chart|insert|link|output)\b[^\[\]]*\])\s*",
    re.I,
)
_IMAGE = re.compile(r"\s*!\[[^\]]*\]\([^)\s]*\)\s*")
_MARKUP_WANTED = re.compile(r"\b(?:html|xml|tags?|markup|markdown|placeholder|element|template|svg|jsx)\b", re.I)


def empty_output(task: Instruction) -> Found | None:
    """An output without a visible character."""
    if task.output.strip():
        return None
    return Found("empty_output", "the output is empty", excerpt(task.instruction), ())


def no_output(task: Instruction) -> Found | None:
    """An output that says that there is none, or stands for something that is not text."""
    if _NO_OUTPUT.fullmatch(task.output) or _NOT_APPLICABLE.fullmatch(task.output):
        return Found("no_output", "the output says that there is none", excerpt(task.output), ())
    if _MARKUP_WANTED.search(task.instruction + task.input):
        return None
    if _PLACEHOLDER.fullmatch(task.output) or _IMAGE.fullmatch(task.output):
        return Found("no_output", "the output stands for something that is not there", excerpt(task.output), ())
    return None


# `12. Instruction:` as generation numbers its tasks, or `### Instruction:` as the prompt template heads its parts.
_HEAD = re.compile(
    r"^[ \t]*(?:(?P<number>\d{1,3})[ \t]*\.|#{2,4})[ \t]*(?P<field>Instruction|Input|Output|Response)[ \t]*:", re.M
)


def merged(task: Instruction) -> Found | None:
    """Further tasks in the output, each with the numbered heads of its parts: they become records of their own.

    A task that lacks one of its parts is lost with its answer. Heads in the instruction or the input leave nothing that
    belongs together.
    """
    for text in (task.instruction, task.input):
        if first := _first_head(text):
            return Found("merged", f"a second task begins with `{_shown(first)}`", excerpt(text, first.start()), ())
    first = _first_head(task.output)
    if not first:
        return None
    own = _without_separator(task.output[: first.start()], first["number"])
    tasks = (dataclasses.replace(task, output=own), *_tasks(task.output[first.start() :]))
    why = f"{len(tasks)} tasks; the second begins with `{_shown(first)}`"
    return Found("merged", why, excerpt(task.output, first.start()), tasks)


def _shown(head: re.Match[str]) -> str:
    return " ".join(head[0].split())


def _first_head(text: str) -> re.Match[str] | None:
    """The head of the first instruction in a text that is followed by the head of its output, with the same number."""
    heads = list(_HEAD.finditer(text))
    last_output = {head["number"]: head.start() for head in heads if head["field"] in ("Output", "Response")}
    instructions = (head for head in heads if head["field"] == "Instruction")
    return next((head for head in instructions if last_output.get(head["number"], -1) > head.start()), None)


def _tasks(text: str) -> list[Instruction]:
    """The complete tasks in a text that begins with the head of an instruction."""
    tasks: list[dict[str, str]] = []
    task_number = None
    heads = list(_HEAD.finditer(text))
    for head, following in itertools.zip_longest(heads, heads[1:]):
        stop = following.start() if following else len(text)
        body = _without_separator(text[head.end() : stop], following["number"] if following else None)
        if head["field"] == "Instruction":
            tasks.append({"instruction": " ".join(body.split()), "input": ""})
            task_number = head["number"]
        elif head["number"] == task_number:
            tasks[-1]["input" if head["field"] == "Input" else "output"] = body
    return [Instruction(**task) for task in tasks if task["instruction"] and "output" in task]


def _without_separator(text: str, number: str | None) -> str:
    """A text without what separates it from the task with that number: lines of `##`, `____`, or the number itself."""
    own_number = rf"|{number}\d*" if number else ""
    return re.sub(rf"(?:\n[ \t]*(?:[#_=*~-]{{2,}}{own_number})[ \t]*)+\s*\Z", "", text).strip()
