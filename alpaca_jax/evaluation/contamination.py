"""Questions of an evaluation that are in the training data, or nearly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.data.instructions import Conversation, Record, read_records
from alpaca_jax.data.similarity import SimilarityIndex, plain, tokenise_any
from alpaca_jax.support.progress import track

# A training record may be near several questions; so many of them are looked at.
_MOST = 10


def contamination(training: Sequence[Path], questions: Mapping[str, str], threshold: float = 0.7) -> dict[str, Any]:
    """The training records that ask what the evaluation asks.

    Args:
      training: instruction files.
      questions: the texts of the evaluation, with their input, by name.
      threshold: ROUGE-L F above which a record is near a question; equal texts, but for case and white space, are
        exact whatever their F.

    Returns:
      `records` and `questions` (numbers), `threshold`, `exact` and `near` (questions with at least one such record; an
      exact one is not near as well), and `matches`: `question`, `text`, `record` (its place), `record_text`, `f`,
      `exact`; the most alike first.

    Raises:
      UserError: a training file that cannot be read.
    """
    index, names, exact = SimilarityIndex(tokenise_any), list(questions), dict[str, list[str]]()
    for name, text in questions.items():
        index.add(text)
        exact.setdefault(plain(text), []).append(name)
    matches: list[dict[str, Any]] = []
    records = 0
    for path in training:
        for located in track(read_records(path), f"compared with {path.name}"):
            records += 1
            for text in _asked(located.record):
                found = {names[one.number]: one.f for one in index.nearest(text, threshold, _MOST)}
                same = exact.get(plain(text), [])
                for name in dict.fromkeys([*same, *found]):
                    match = {"question": name, "text": questions[name], "record": located.place, "record_text": text}
                    matches.append(match | {"f": found.get(name, 1.0), "exact": name in same})
    matches.sort(key=lambda match: (not match["exact"], -match["f"]))
    with_exact = {match["question"] for match in matches if match["exact"]}
    return {
        "records": records,
        "questions": len(questions),
        "threshold": threshold,
        "exact": len(with_exact),
        "near": len({match["question"] for match in matches} - with_exact),
        "matches": matches,
    }


def _asked(record: Record) -> list[str]:
    """What a record asks: an instruction with its input, or each thing that the user of a chat says."""
    if isinstance(record, Conversation):
        return [message.content for message in record.messages if message.role == "user"]
    return [record.question]
