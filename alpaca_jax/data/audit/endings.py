r"""Answers that break off: where the stop `20.` or `\n20` cut them, or the longest length did.

Only what hardly ends a whole answer counts. A full stop before the cut part leaves no trace: `The total is $1`, once
`$120.`, is not found.
"""

import dataclasses
import re
from collections.abc import Callable

from alpaca_jax.data.audit.kinds import Found
from alpaca_jax.data.instructions import Instruction

_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
# "20." in 2020, or in any year of a century's 20: what is left of the year has two digits.
_HALF_YEAR = re.compile(rf"(?:\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?, |(?<!\d )\b(?:in|since|until) )(?:1[6-9]|20)\Z")
_LAST_MARK = re.compile(r"(?:(?<=\d)[-–]|(?<=\s)[$€£]|[(\[{])\Z")
_NEVER_LAST = re.compile(
    r"a|an|the|and|or|but|because|although|whereas|which|than|between|into|from|of|its|their|his|your|my|our|is|are|was|"
    r"were|equals"
)
_ASKING = re.compile(r"\b(?:what|who|where|how|when|that|as|than|whatever|whoever)\b", re.I)
_SENTENCE_END = re.compile(r"[.!?。]['\"”’)\]*]*(?=\s)")
_LIST_ITEM = re.compile(r"\s*(?:[-•*–]|\(?\w{1,3}[.):-])\s")
_NOT_PROSE = re.compile(r"[#<>|=@\\{}]|https?:|www\.|[-–—~]\s?[A-Z]")
_WORD = re.compile(r"[^\W_]+")
_TABLE_WANTED = re.compile(r"\b(?:table|chart|data ?set|spreadsheet|list)\b", re.I)

# People forget a full stop. A last sentence of so many words without one, after so many that have it, was cut.
_WORDS_OF_A_SENTENCE, _SENTENCES_BEFORE = 8, 3


def cut_answer(task: Instruction) -> Found | None:
    """An output that ends before its end; trimmed to its last whole sentence where that leaves half of it or more."""
    output = task.output.rstrip()
    for reason in (_stopped_list, _headings_only, _open_fence, _half_year, _dangling, _open_sentence):
        if why := reason(task, output):
            trimmed = None if reason in _BEYOND_TRIMMING else _whole_sentences(output)
            result = () if trimmed is None else (dataclasses.replace(task, output=trimmed),)
            return Found("cut_answer", why, f"…{output[-60:]!r}" if len(output) > 60 else repr(output), result)
    return None


def _last_line(output: str) -> str:
    return output[output.rfind("\n") + 1 :]


def _stopped_list(task: Instruction, output: str) -> str | None:
    """A numbered list of 19 that nobody asked to have 19."""
    if re.search(r"\b19\b|nineteen", f"{task.instruction} {task.input}", re.I):
        return None
    last = re.match(r"\s*19(\s*[.):|-])", _last_line(output))
    before = last and all(re.search(rf"^[ \t]*{n}{re.escape(last[1])}", output, re.M) for n in (16, 17, 18))
    return "a list stops at 19, where `20.` ended the generation" if before else None


def _headings_only(task: Instruction, output: str) -> str | None:
    """The heading of a table of years, whose first line began with 20."""
    if "\n" in output or not re.search(r"\w *\| *\w", output) or re.search(r"\d", output):
        return None
    asked = f"{task.instruction} {task.input}"
    if not _TABLE_WANTED.search(asked) or not re.search(r"\b(?:19|20)\d\d\b", asked):
        return None
    return "a table of headings only, where a line with `20` ended the generation"


def _open_fence(task: Instruction, output: str) -> str | None:
    del task
    fences = re.findall(r"^[ \t]*```", output, re.M)
    return "a code block without its end" if len(fences) % 2 else None


def _half_year(task: Instruction, output: str) -> str | None:
    del task
    return "half of a year, where `20.` ended the generation" if _HALF_YEAR.search(output) else None


def _dangling(task: Instruction, output: str) -> str | None:
    """A last word or sign that a sentence goes on from; words put into another order, as asked for, may end in any."""
    line = _last_line(output)
    words = _WORD.findall(line)
    if len(words) < 4 or not line.lstrip()[:1].isupper() or "," in line[-24:] or _rearranged(task, output):
        return None
    if mark := _LAST_MARK.search(line):
        return f"ends with {mark[0]!r}"
    if not re.search(r"\s[a-z]+\Z", line) or not _NEVER_LAST.fullmatch(words[-1]):
        return None
    verb = words[-1] in ("is", "are", "was", "were")
    return None if verb and _ASKING.search(line) else f"ends with the word {words[-1]!r}"


def _open_sentence(task: Instruction, output: str) -> str | None:
    """A last sentence, long and without its end, after several in the same paragraph that have it."""
    line = _last_line(output)
    if _LIST_ITEM.match(line) or not (line[-1:].isalnum() or line[-1:] in ",-–"):
        return None
    ends = list(_SENTENCE_END.finditer(line))
    tail = line[ends[-1].end() :] if ends else ""
    long = len(ends) >= _SENTENCES_BEFORE and len(_WORD.findall(tail)) >= _WORDS_OF_A_SENTENCE
    if not long or _NOT_PROSE.search(tail) or _rearranged(task, output):
        return None
    return "the last sentence has no end"


def _rearranged(task: Instruction, output: str) -> bool:
    """Whether every word of the output stood in the task: what is sorted or quoted may end anywhere."""
    given = {word.lower() for word in _WORD.findall(f"{task.instruction} {task.input}")}
    return all(word.lower() in given for word in _WORD.findall(output))


def _whole_sentences(output: str) -> str | None:
    """The output up to its last sentence end; None where that is less than half of it."""
    for end in reversed(list(_SENTENCE_END.finditer(output))):
        kept = output[: end.end()]
        if len(kept) < len(output) / 2:
            return None
        if not re.search(r"(?:^|\n)[ \t]*\(?\w{1,3}[.)]\Z", kept):  # the number of a list item is no sentence
            return kept
    return None


# What is left of these is not a shorter answer but a wrong one.
_BEYOND_TRIMMING: tuple[Callable[[Instruction, str], str | None], ...] = (_stopped_list, _headings_only, _open_fence)
