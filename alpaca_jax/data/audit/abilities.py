"""Tasks that no model of text can do: about this moment, with the web, with pictures and sound, with acts."""

import re

from alpaca_jax.data.audit.kinds import Found, excerpt
from alpaca_jax.data.instructions import Instruction

# Who is to write a text or a program may invent what it needs.
_FICTION = re.compile(
    r"^(?:write|compose)\b|\b(?:dialog(?:ue)?|conversation|fiction\w*|imagin\w+|poem|script|tweet|headline|satire|joke|"
    r"lyrics|hypothetical|sample|example|essay|blog|sentence|paraphrase|rewrite|rephrase|translat\w+|sentiment|"
    r"classify|programs?|code|function|class|algorithm|app|html|css|svg|python|java\w*|sql|ascii|pseudo\w*|excel)\b",
    re.I,
)
_ASKS = r"^(?:please |can you |could you )?"
_MOMENT = (
    r"\btoday(?:'s|’s)? (?:date|weather|news|headlines|temperature)\b",
    r"\bwhat(?:'s|’s| is) (?:today|the (?:date|day|time) (?:today|now))\b",
    r"\bwhat (?:day|date|time) is it\b|\b(?:date|day) (?:is it )?today\b",
    r"\bcurrent (?:date|time|temperature|weather|exchange rate|(?:stock |share |market )?price)s?\b",
    r"\bweather (?:outside|right now|today|tomorrow|report for tomorrow)\b",
    r"\b(?:latest|recent|today's) (?:news|headlines?|scores?|information (?:about|on))\b",
    r"\b(?:price|closing) (?:at closing )?today\b|\bstock (?:market|price)s? tomorrow\b",
    r"\bdate of the next\b|\bright now\b",
)
_FOUND_THERE = (
    r"(?:websites?|web ?pages?|(?:news |online )?articles?|online (?:resource|source)s?|(?:youtube )?videos?|links?)"
)
_WEB = (
    rf"{_ASKS}(?:search|browse|google|visit|surf)\b.*\b(?:web|internet|online|google|website|site)\b",
    r"\b(?:search|browse|surf) the (?:web|internet)\b|\bfrom the (?:internet|web)\b",
    r"\bconduct a (?:web |google )?search\b",
    rf"{_ASKS}(?:find|locate|look up|search for) (?:me )?(?:an?|the|some|two|three|five|\d+)\s+"
    rf"(?:[\w-]+\s+){{0,3}}{_FOUND_THERE}\b",
    rf"{_ASKS}download\b",
)
_WORK = (
    r"(?:logo|poster|image|picture|photo|photograph|graphic|illustration|drawing|sketch|painting|animation|video|audio|"
    r"recording|infographic|data visualization|pie chart|bar (?:chart|graph)|line graph|piece of art|mural|collage)"
)
_OF_WORDS = (  # what follows the name of a work and makes it a text
    r"(?:scripts?|titles?|descriptions?|ideas?|captions?|concepts?|outlines?|analys\w+|tutorials?|games?|editing|prompts?|"
    r"storylines?|plots?|series|brief|campaign|presentation|editor|database|app\w*|company|store|contest|channel|novel|"
    r"t-shirt|user|design|organi[sz]er)"
)
_MAKES = (
    rf"{_ASKS}(?:you need to )?(?:design|create|make|generate|produce|draw|sketch|build)\s+(?:an?|the|me an?|some)\s+"
    rf"(?:(?!of\b|for\b|about\b|to\b|that\b|with\b|character\b|short\b)[\w'-]+[\s/]+){{0,3}}?{_WORK}\b(?![\s-]+{_OF_WORDS})",
    rf"{_ASKS}(?:draw|paint|record|photograph|film|sing|hum|whistle)\s+(?:me\s+)?(?:an?|the|your)\b(?!\s+conclusion)",
    rf"{_ASKS}(?:play|tune)\s+(?:me\s+)?(?:an?|the|some)\s+(?:\w+\s+){{0,3}}(?:song|music|melody|rhythm|tune)\b",
    rf"{_ASKS}edit (?:a|the|this) (?:photo|photograph|image|picture|video)\b",
)
_ACTS = (
    rf"{_ASKS}(?:set(?: up)?|create) an? (?:[\w-]+ )?(?:reminder|alarm|timer)\b|\bset a reminder\b",
    rf"{_ASKS}create an? (?:google )?calendar event\b",
    rf"{_ASKS}(?:turn (?:on|off)|switch (?:on|off)|dim) the\b",
)


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.I)


_NEEDS = {
    "needs to know what is now": _any_of(_MOMENT),
    "needs the web": _any_of(_WEB),
    "asks for something to see or hear": _any_of(_MAKES),
    "asks for an act outside the text": _any_of(_ACTS),
}
# A longer input gives what is asked about: the weather, the news.
_WORDS_THAT_GIVE = 5


def beyond_text(task: Instruction) -> Found | None:
    """A task that needs the present moment, the web, pictures, sound or acts."""
    if _FICTION.search(task.instruction):
        return None
    for why, pattern in _NEEDS.items():
        match = pattern.search(task.instruction)
        if match and not ("now" in why and len(task.input.split()) >= _WORDS_THAT_GIVE):
            return Found("beyond_text", f"{why}: `{match[0]}`", excerpt(task.instruction))
    return None
