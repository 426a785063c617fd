"""Damage to the characters of a text, and its repair as far as it is certain."""

import re

from alpaca_jax.data.audit.kinds import Found, excerpt

# C0 but for tab, line feed and carriage return; DEL; C1; the byte order mark; two code points that are no characters.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
# Vertical tab and form feed end a line; the others are nothing in a text.
_LINE_ENDS = dict.fromkeys("\x0b\x0c", "\n")


def repair_text(text: str) -> tuple[str, list[Found]]:
    """A text with its mojibake and control characters repaired, and what was wrong with it.

    ASCII can hold only control characters; other texts are judged by ftfy, whose heuristic is tuned not to touch what
    could be meant.
    """
    found = []
    if not text.isascii():
        import ftfy

        repaired = ftfy.fix_encoding(text)
        if repaired != text:
            place = next((i for i, (a, b) in enumerate(zip(text, repaired, strict=False)) if a != b), 0)
            found.append(Found("mojibake", f"read back, it is “{excerpt(repaired, place, 24)}”", excerpt(text, place)))
            text = repaired
    if control := _CONTROL.search(text):
        why = f"U+{ord(control[0]):04X}"
        found.append(Found("control_character", why, excerpt(text, control.start())))
        text = _CONTROL.sub(lambda match: _LINE_ENDS.get(match[0], ""), text)
    if "\ufffd" in text:
        found.append(Found("replacement_character", "U+FFFD", excerpt(text, text.index("\ufffd"))))
    return text, found
