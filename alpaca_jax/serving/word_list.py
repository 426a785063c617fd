"""A local list of words, phrases and regular expressions that a text must not contain."""

import unicodedata
from pathlib import Path

import regex

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

_LONGEST_FILE = 2**22  # bytes
# For one text and one expression; what takes longer backtracks without end.
_SECONDS = 0.25
# How far an expression is taken to look, since its longest match cannot be known.
_REACH_OF_EXPRESSIONS = 100

# What can be put between or over letters without a reader's noticing: format characters (zero-width ones, soft
# hyphens, direction marks), variation selectors, blank Hangul, and marks that no composed letter has.
_IGNORABLE = regex.compile(
    r"[\p{Cf}\p{Me}\u0300-\u036f\u115f\u1160\u17b4\u17b5\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]+"
)
_SPACES = regex.compile(r"\s+")
# Scripts that put no space between words: there a word may begin anywhere.
_WITHOUT_SPACES = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


def normalise(text: str) -> str:
    """A text as it is compared: in lower case, of ordinary width, without invisible characters, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _SPACES.sub(" ", _IGNORABLE.sub("", folded)).strip()


class WordList:
    """What a file lists, one entry a line.

    A line is a word or a phrase, found as whole words; or `/EXPRESSION/`, found anywhere. Both are compared without
    regard to case, width and invisible characters. Empty lines and those that begin with `#` are passed over.

    Attributes:
      reach: the most characters that one entry looks at, as far as that is known.
    """

    def __init__(self, path: str | Path):
        """Reads the file.

        Raises:
          UserError: it cannot be read, has no entry, or one that is not an expression.
        """
        with explain_os_errors(path), open(path, "rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise UserError(
                str(path),
                expected=f"a word list of at most {_LONGEST_FILE // 2**20} MiB",
                found="a longer one",
                remedy="shorten it",
            )
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(
                str(path), expected="UTF-8 text", found=shorten(str(error)), remedy="save it as UTF-8"
            ) from error
        words, self._expressions = set[str](), []
        for number, line in enumerate(map(str.strip, lines), start=1):
            if len(line) > 2 and line.startswith("/") and line.endswith("/"):
                self._expressions.append(_compile(line[1:-1], f"{path}, line {number}"))
            elif line and not line.startswith("#") and normalise(line):
                words.add(normalise(line))
        if not words and not self._expressions:
            raise UserError(
                str(path), expected="at least one word or /expression/", found="none", remedy="check the file"
            )
        self.reach = max([*map(len, words), _REACH_OF_EXPRESSIONS if self._expressions else 0])
        if words:
            self._expressions.append(_words(words))

    def finds(self, text: str) -> bool:
        """Whether the text contains an entry.

        Raises:
          TimeoutError: an expression of the list takes too long for this text.
        """
        text = normalise(text)
        return any(expression.search(text, timeout=_SECONDS, concurrent=True) for expression in self._expressions)


def _compile(expression: str, place: str) -> regex.Pattern:
    try:
        return regex.compile(expression, regex.IGNORECASE | regex.VERSION0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UserError(
            place, expected="a regular expression between slashes", found=shorten(str(error)), remedy="correct it"
        ) from error


def _words(words: set[str]) -> regex.Pattern:
    """One expression for all words: regex looks them up together, however many there are."""
    anywhere = {word for word in words if _WITHOUT_SPACES.search(word[0] + word[-1])}
    apart = sorted(words - anywhere)
    forms = [r"(?<![\p{L}\p{N}])\L<apart>(?![\p{L}\p{N}])"] if apart else []
    forms += [r"\L<anywhere>"] if anywhere else []
    given = {"apart": apart, "anywhere": sorted(anywhere)}
    return regex.compile("|".join(forms), **{name: list_ for name, list_ in given.items() if list_})
