"""The one kind of error a user causes and can mend, and the end of a program that was stopped."""

import functools
from typing import Any


class UserError(Exception):
    """Something the user gave is not what was needed; shown as one line, without a stack trace.

    Args:
      subject: what is wrong: a flag, a file, a configuration key.
      expected: what was needed.
      found: what was there instead.
      remedy: what to do about it, as an imperative.
    """

    def __init__(self, subject: str, *, expected: str, found: str, remedy: str):
        self.subject, self.expected, self.found, self.remedy = subject, expected, found, remedy
        line = f"{subject}: expected {expected}; found {found}. {remedy[:1].upper()}{remedy[1:]}."
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy for another process is made from the same four parts, which an `Exception` would not pass on."""
        parts = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        return functools.partial(UserError, **parts), (self.subject,)


class Stopped(Exception):
    """A program that ends before its work is done, for a reason that is no fault of its own.

    Args:
      line: what it says last.
      code: its exit code.
    """

    def __init__(self, line: str, code: int):
        super().__init__(line)
        self.code = code


def shorten(value: object, limit: int = 80) -> str:
    """`repr` of a value from outside, cut to `limit` characters so that an error stays one line."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a value nested too deep to show"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
