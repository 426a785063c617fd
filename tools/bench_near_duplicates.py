"""How fast near-duplicates are found, side by side with the original's way, and whether both decide the same.

python tools/bench_near_duplicates.py --input=FILE [--records=52002] [--samples=8] [--json]

The instructions of the file are repeated until there are enough; in each copy about half of the words are others, drawn
as often as the file has them, so that the copies are about as alike as further text of the same kind. Ours goes through
all of them, each against all that were kept before it, in one process.

The original's way, made again from its description, needs hours: for each candidate it starts 16 processes, which
compare it with every kept instruction by `rouge_score`. It is timed on samples, spread evenly over the run and each
against what ours had kept by then; the time for all is the mean of these times the number of records. Each sample is
decided both ways.
"""

import functools
import itertools
import json
import multiprocessing
import random
import statistics
import time
from pathlib import Path

from alpaca_jax.data.instructions import Instruction, read_records
from alpaca_jax.data.similarity import SimilarityIndex
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program
from alpaca_jax.support.progress import track

_NEAR = 0.7
_PROCESSES = 16


def main() -> int | None:
    """Parses the flags, goes both ways, and says how long they took."""
    flags = Flags(prog="python tools/bench_near_duplicates.py", description=__doc__)
    flags.add_argument("--input", metavar="FILE", required=True, help="instruction file to repeat")
    flags.add_argument("--records", metavar="N", type=int, default=52002, help="how many to make (default 52002)")
    flags.add_argument("--samples", metavar="N", type=int, default=8, help="decided the original's way too (default 8)")
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse()
    if not 1 <= values.samples <= values.records:
        expected = "at least 1, at most --records"
        raise UserError("--samples", expected=expected, found=str(values.samples), remedy="give another number")
    texts = instructions(Path(values.input), values.records)
    from rouge_score.rouge_scorer import RougeScorer

    tokenise = RougeScorer(["rougeL"], use_stemmer=False)._tokenizer.tokenize
    every = values.records // values.samples
    index, kept, ours, original, differing = SimilarityIndex(), list[list[str]](), 0.0, list[float](), 0
    for number, text in enumerate(track(texts, "instructions"), start=1):
        begun = time.perf_counter()
        near = bool(index.nearest(text, _NEAR))
        ours += time.perf_counter() - begun
        if number % every == 0:
            begun = time.perf_counter()
            differing += the_original_decides(tokenise(text), kept) != near
            original.append(time.perf_counter() - begun)
        if not near:
            begun = time.perf_counter()
            index.add(text)
            ours += time.perf_counter() - begun
            kept.append(tokenise(text))
    total = statistics.mean(original) * values.records
    report = {
        "records": values.records,
        "kept": len(kept),
        "ours_seconds": round(ours, 2),
        "original_seconds": round(total, 1),
        "original_seconds_per_sample": [round(seconds, 3) for seconds in original],
        "times_as_fast": round(total / ours, 1),
        "samples": len(original),
        "decided_differently": differing,
    }
    if values.json:
        print_json(report)
    else:
        print(json.dumps(report, indent=1))
    return 0


def instructions(path: Path, count: int) -> list[str]:
    """So many instructions, made from a file's."""
    records = (located.record for located in read_records(path))
    texts = [record.instruction for record in records if isinstance(record, Instruction)]
    if not texts:
        raise UserError(str(path), expected="instructions", found="none", remedy="give another file")
    words = [word for text in texts for word in text.split()]
    generator = random.Random(0)
    made = texts[:count]
    for text in itertools.islice(itertools.cycle(texts), max(0, count - len(made))):
        made.append(" ".join(generator.choice(words) if generator.random() < 0.5 else word for word in text.split()))
    generator.shuffle(made)
    return made


def the_original_decides(text: list[str], kept: list[list[str]]) -> bool:
    """Whether a text's tokens are near those of one that was kept, by comparing with each in a pool of processes."""
    from rouge_score import rouge_scorer

    with multiprocessing.Pool(_PROCESSES) as pool:
        scores = pool.map(functools.partial(rouge_scorer._score_lcs, text), kept)
    return any(score.fmeasure > _NEAR for score in scores)


if __name__ == "__main__":
    run_program(main)
