"""The table of faults: what each kind is and what `--fix` does about it; and a fault that was found."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.support.errors import shorten

Policy = Literal["repaired", "split", "trimmed or dropped", "dropped", "left"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
      policy: what `--fix` does with it. Repaired is what is certain, dropped what teaches nothing right; what only a
        reader can judge is left, and reported.
      explanation: one sentence.
    """

    policy: Policy
    explanation: str


# In the order in which a record is looked at; each check sees what the one before it left.
KINDS: dict[str, Kind] = {
    "mojibake": Kind("repaired", "UTF-8 read as something else: â€™ for an apostrophe."),
    "control_character": Kind("repaired", "Invisible characters that are no text: VT, BOM, ESC."),
    "replacement_character": Kind("left", "U+FFFD where a character was lost for good."),
    "merged": Kind("split", "Tasks in one record, with heads like `12. Instruction:`."),
    "noinput": Kind("repaired", "An empty input spelt out: `No input`, `N/A`, `<noinput>`."),
    "empty_output": Kind("dropped", "No answer."),
    "no_output": Kind("dropped", "A marker in place of an answer, as `<nooutput>`."),
    "missing_material": Kind("dropped", "About an image, page or text that is not there."),
    "cut_answer": Kind("trimmed or dropped", "The answer breaks off: by the stop `20.`, or its length."),
    "contaminated": Kind("dropped", "Close to a task of --eval, or holding one."),
    "duplicate": Kind("dropped", "Equal to an earlier record, input and output included."),
    "near_duplicate": Kind("left", "Instruction with ROUGE-L F above --near to an earlier one."),
    "beyond_text": Kind("left", "Asks for today's date, the web, pictures, sound, acts."),
    "too_long": Kind("left", "Over --seq_len tokens, template included."),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """A fault in one record.

    Attributes:
      kind: a key of `KINDS`.
      why: what was seen, in a few words.
      excerpt: the place, short and on one line.
      result: the tasks that take the place of the one looked at (none: it is dropped); None where it is left.
    """

    kind: str
    why: str
    excerpt: str
    result: tuple[Instruction, ...] | None = None


Check = Callable[[Instruction], Found | None]


def excerpt(text: str, around: int | None = None, width: int = 72) -> str:
    """One line of a text: its beginning, or what lies around a place in it, with control characters escaped."""
    start = 0 if around is None else max(0, min(around - width // 2, len(text) - width))
    piece = shorten(text[start : start + width], 2 * width)[1:-1]
    return ("…" if start else "") + piece + ("…" if start + width < len(text) else "")
