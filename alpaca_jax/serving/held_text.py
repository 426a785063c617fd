"""An answer on its way through the content filter: each stretch is shown only when it has been checked."""

from typing import NamedTuple

import regex

from alpaca_jax.generation.requests import Piece
from alpaca_jax.generation.text_stream import TokenChoice
from alpaca_jax.serving.moderation import Filter

# A stretch ends with a sentence, or at a space after so many characters.
_STRETCH = 200
# What lies further back than this is not checked again.
_WINDOW = 4_000
_SENTENCE_END = regex.compile(r"[.!?…。!?]+[\"'”’)\]]*\s|\n")
_IGNORED_IN_REACH = regex.compile(r"[\p{Cf}\p{M}\s]")


class Blocked(Exception):
    """The filter has stopped the answer.

    Args:
      reason: as it is counted.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Stretch(NamedTuple):
    """Checked text, and the tokens whose text has been shown whole."""

    text: str
    tokens: tuple[TokenChoice, ...]


class HeldText:
    """The text of one answer, held back until the filter has seen it with what stands before and after it.

    The last `reach` characters of what was checked are held back until more has come, so that no entry of a word list
    is shown in part because a stretch ended within it.
    """

    def __init__(self, filter: Filter):
        """Nothing held yet."""
        self._filter = filter
        self._text, self._shown, self._checked = "", 0, 0
        self._tokens: list[tuple[int, TokenChoice]] = []

    async def feed(self, piece: Piece) -> Stretch:
        """What may be shown after a further piece; all that is left after the last one.

        Raises:
          Blocked: the filter stops the answer; nothing that is held may be shown.
          Refusal: the filter cannot be asked.
        """
        self._text += piece.text
        self._tokens += [(len(self._text), token) for token in piece.tokens]
        last = piece.finish_reason is not None
        end = len(self._text) if last else self._end_of_stretch()
        if end > self._checked:
            if reason := await self._filter.check(self._text[max(0, self._checked - _WINDOW) : end]):
                raise Blocked(reason)
            self._checked = end
        return self._show(self._checked if last else self._before_reach(self._checked))

    def _end_of_stretch(self) -> int:
        """Where the text to be checked next ends; where nothing is ready to be, as before."""
        ends = [found.end() for found in _SENTENCE_END.finditer(self._text, self._checked)]
        if ends:
            return ends[-1]
        if len(self._text) - self._checked < _STRETCH:
            return self._checked
        space = self._text.rfind(" ", self._checked)
        return space + 1 if space >= 0 else len(self._text)

    def _before_reach(self, end: int) -> int:
        """The place before the last `reach` visible characters."""
        left = self._filter.reach
        while left and end > self._shown:
            end -= 1
            left -= _IGNORED_IN_REACH.match(self._text[end]) is None
        return end

    def _show(self, end: int) -> Stretch:
        text, self._shown = self._text[self._shown : end], max(self._shown, end)
        tokens = [token for place, token in self._tokens if place <= self._shown]
        del self._tokens[: len(tokens)]
        return Stretch(text, tuple(tokens))
