"""Tokens, one after another, to text that can be shown at once and is never taken back."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

# What decoding puts for bytes that are not, or not yet, a character.
_INCOMPLETE = "\ufffd"
# Decoding starts anew from this many tokens back at most, so that a long answer costs no more a token than a short one.
_WINDOW = 32


class TokenChoice(NamedTuple):
    """One token of a prompt or an answer.

    Attributes:
      id: its number.
      text: how it reads by itself.
      logprob: the natural logarithm of its probability; None where none was asked for, and of a prompt's first token.
      best: id, text and logarithm of the likeliest tokens in its place, the likeliest first.
    """

    id: int
    text: str
    logprob: float | None = None
    best: tuple[tuple[int, str, float], ...] = ()


class Released(NamedTuple):
    """What may be shown: text, and the tokens that it came from."""

    text: str
    tokens: tuple[TokenChoice, ...]
    stopped: bool = False


class TextStream:
    """The text of one answer as its tokens come.

    Text is held back while it may be half a character or the beginning of a stop string. All that is released,
    joined, is what decoding all tokens at once gives, cut before the first stop string.

    Args:
      decode: ids to text.
      stop: the stop strings.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []  # of the window
        self._context = 0  # characters of the window's ids that were all taken out long ago
        self._taken = 0  # characters after the context that were taken out already
        self._held = ""  # complete text that may begin a stop string
        self._released = 0  # characters
        self._waiting: list[tuple[TokenChoice, int]] = []  # with the length of the text at their ends
        self._told = 0  # the length of the text at the end of the last token released

    def push(self, token: TokenChoice) -> Released:
        """One token more."""
        self._ids.append(token.id)
        self._held += self._new_text(last=False)
        self._waiting.append((token, self._released + len(self._held)))
        return self._release(last=False)

    def finish(self) -> Released:
        """What is left when no more tokens come."""
        self._held += self._new_text(last=True)
        return self._release(last=True)

    def _new_text(self, last: bool) -> str:
        """The characters that have become complete."""
        text = self._decode(self._ids)[self._context :]
        sure = text if last else text.rstrip(_INCOMPLETE)
        new, self._taken = sure[self._taken :], max(self._taken, len(sure))
        if sure == text:
            self._context, self._taken = self._context + len(text), 0
            if len(self._ids) > _WINDOW:
                # Some stay as context: the first id of a text may be decoded differently from a later one.
                self._ids = self._ids[-_WINDOW // 2 :]
                self._context = len(self._decode(self._ids))
        return new

    def _release(self, last: bool) -> Released:
        found = [place for place in (self._held.find(stop) for stop in self._stop) if place >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            end = self._released + len(text)
            starts = [self._told, *(length for _, length in self._waiting)]
            kept = [token for (token, _), start in zip(self._waiting, starts, strict=False) if start < end]
            self._released, self._waiting = end, []
            return Released(text, tuple(kept), stopped=True)
        keep = 0 if last else self._may_begin_a_stop()
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        self._released += len(text)
        ready = [(token, end) for token, end in self._waiting if last or end <= self._released]
        self._waiting = self._waiting[len(ready) :]
        self._told = ready[-1][1] if ready else self._told
        return Released(text, tuple(token for token, _ in ready))

    def _may_begin_a_stop(self) -> int:
        """How many of the last characters held are the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
