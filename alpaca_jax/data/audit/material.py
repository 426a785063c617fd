"""Tasks about something that is not in the record: an image, a page behind an address, a text that was to be given."""

import re

from alpaca_jax.data.audit.kinds import Found, excerpt
from alpaca_jax.data.instructions import Instruction

_SEEN = r"(?:images?|pictures?|photos?|photographs?|paintings?|drawings?|artworks?|screenshots?|videos?|clips?)"
_HEARD = r"(?:audio|recordings?|melody|melodies|sound clips?|voice memos?)"
_SHOWN = r"(?:charts?|graphs?|diagrams?|plots?|maps?|infographics?|figures?|flow ?charts?)"
_FILE = r"(?:files?|pdfs?|spreadsheets?|excel sheets?|attachments?|csv|word documents?|slides?|presentations?)"
_READ = (
    r"(?:articles?|passages?|paragraphs?|texts?|essays?|documents?|web ?pages?|websites?|blog posts?|emails?|"
    r"advertisements?|story|stories)"
)

_ADDRESS = r"(?:https?://|www\.)[^\s<>\"']+"
_LINKED = rf"!?\[[^\]]*\]\({_ADDRESS}\)"
_ONLY_ADDRESS = re.compile(
    rf"(?:[\w ]{{1,30}}:\s*)?(?:[<\[(]*(?:\w+:\s*)?(?:\[[^\]]*\]\()?{_ADDRESS}[>\])]*|{_LINKED})"
)
_ABOUT_CONTENT = re.compile(
    rf"\b(?:summar\w+|content|sites?|layout|story|news|describe|anal\w+|evaluate|review|access|edit|read|watch|listen|"
    rf"caption|translate|pages?|{_SEEN}|{_HEARD}|{_FILE}|{_READ})\b",
    re.I,
)
# An address can be the matter itself.
_ABOUT_ADDRESS = re.compile(
    r"\b(?:domain|regex|regular expression|algorithm|code|script|program|function|parse|extract|scrap\w+|crawl\w*|"
    r"shorten|valid\w*|html|http|api|query|command|hyperlinks?|anchor|qr|cit(?:e|ation)|bibliograph\w+|host ?name)\b",
    re.I,
)
_BRACKETED = re.compile(r"(?:(?:\[[^\[\]]*\]|<[^<>]*>)\s*)+")
_NAMES_MATERIAL = re.compile(
    rf"\b(?:{_SEEN}|{_HEARD}|{_SHOWN}|{_FILE}|{_READ}|link|url|attached|insert|provided|description)\b", re.I
)
_PLAIN_WORDS = re.compile(r"[\w\s:'’./-]+")
# In so many words a picture is described rather than missing.
_DESCRIBED = re.compile(rf"\b{_SEEN}\s+(?:of|showing|with)\s+(?:[\w'-]+\s+){{4,}}", re.I)

_POINTED_AT = re.compile(
    r"\b(?:(?:this|these|(?:the )?(?:following|given|attached|provided|below|above)|an? (?:given|attached|provided))"
    rf"\s+(?:[\w-]+\s+){{0,2}}?(?:{_SEEN}|{_HEARD}|{_SHOWN}|{_FILE}|{_READ})\b"
    r"(?!\s*(?:-|of|about|format|size|type|style|length|idea))"
    r"|(?:article|book|text|story|page|email) (?:that )?I (?:have )?just (?:read|sent|wrote)"
    rf"|look at (?:this|the|that)\s+(?:\w+\s+){{0,2}}{_SEEN}\b)",
    re.I,
)
# The matter may stand in the instruction: after a colon, in quotes, on a line of its own; or none is needed.
_QUOTES = re.compile(r":\s*\S|[\"“”\n`]|'[^']+'")
_IN_GENERAL = re.compile(
    r"\b(?:programs?|code|script|algorithm|function|method|command|query|regex|class|api|model|write a|steps?|explain|"
    r"how (?:to|do|can|would)|template|imagine|design|create|generate|compose|develop|suppose)\b",
    re.I,
)


def missing_material(task: Instruction) -> Found | None:
    """An input that is only an address or `[Image]`; "the following article", and no input."""
    given = task.input.strip()
    asked = task.instruction
    if given:
        if _ONLY_ADDRESS.fullmatch(given):
            about = _ABOUT_CONTENT.search(asked) and not _ABOUT_ADDRESS.search(asked)
            return _missing("the input is an address", given) if about else None
        return _missing("the input stands for something that is not there", given) if _is_placeholder(given) else None
    match = _POINTED_AT.search(asked)
    if not match or _QUOTES.search(asked) or _IN_GENERAL.search(asked) or _ABOUT_ADDRESS.search(asked):
        return None
    if re.search(r"[.?!]\s+\S", asked[match.end() :]):
        return None  # a sentence that follows may be the matter
    return _missing(f"`{match[0]}`, and no input", asked)


def _missing(why: str, text: str) -> Found:
    return Found("missing_material", why, excerpt(text), ())


def _is_placeholder(text: str) -> bool:
    """Whether a text is a few words in brackets that name what ought to stand there."""
    if not _BRACKETED.fullmatch(text) or _DESCRIBED.search(text):
        return False
    inside = " ".join(re.findall(r"[\[<]([^\[\]<>]*)[\]>]", text))
    return bool(_PLAIN_WORDS.fullmatch(inside) and len(inside.split()) <= 15 and _NAMES_MATERIAL.search(inside))
