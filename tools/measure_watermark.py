"""Measures the watermark: how often an unmarked text is taken for a marked one, and how often a marked one is found.

python tools/measure_watermark.py --input=FILE --tokenizer=PATH
python tools/measure_watermark.py --input=FILE --checkpoint=DIR [--answers=256 --gamma=0.25 --delta=3]
python tools/measure_watermark.py --input=FILE --tokenizer=PATH --base_url=http://127.0.0.1:8000/v1 --key=FILE

False positives: each answer in the instruction file, however short, is held against many keys, a million pairs in all.
Green tokens depend on text and key together, so that pairs of one text are as good as other texts. Counted are z > 4
alone, and what `detect` calls marked (by the exact distribution as well), with a one-sided 95% limit of the rate
(Clopper and Pearson).

True positives, with a checkpoint or a running `serve --watermark_key=FILE`: the file's instructions with the longest
answers are answered at temperature 0.7 and top-p 0.9, 200 tokens at most. Answers that reach 200 are decoded to text,
and the text is looked through as any other; answers that end sooner are counted apart.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.data.instructions import Instruction, read_records
from alpaca_jax.data.tokenizer import Tokenizer, load_tokenizer
from alpaca_jax.generation.watermark import DETECTED_ABOVE, Detection, Watermark, detect, distinct_ngrams, green
from alpaca_jax.generation.watermark_files import read_watermark
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program
from alpaca_jax.support.progress import ProgressBar, track

_TOKENS = 200
_TEMPERATURE, _TOP_P = 0.7, 0.9
# Lengths, in scored tokens, that are reported apart; from 121 on z > 4 alone keeps the rate with γ 0.25.
_LENGTHS = (0, 50, 121, 10**9)
_LONGEST_PROMPT = 1000  # characters
_TOGETHER = 64


class Answer(NamedTuple):
    """What a model wrote, and whether it was cut at the number of tokens."""

    text: str
    whole_length: bool


def main() -> int | None:
    """Parses the flags, measures and prints."""
    flags = Flags(prog="python tools/measure_watermark.py", description=__doc__)
    add = flags.add_argument
    add("--input", metavar="FILE", required=True, help="instruction file, whose answers no watermark is in")
    add("--tokenizer", metavar="PATH", help="tokenizer; not needed with --checkpoint")
    add("--pairs", metavar="N", type=int, default=1_000_000, help="at least so many pairs of text and key (1,000,000)")
    add("--checkpoint", metavar="DIR", help="model that answers in this process")
    add("--base_url", metavar="URL", help="server that answers, started with --watermark_key, up to /v1")
    add("--key", metavar="FILE", help="the server's key")
    add("--answers", metavar="N", type=int, default=256, help="how many instructions are answered (default 256)")
    add("--gamma", metavar="G", type=float, default=0.25, help="share of green tokens (default 0.25)")
    add("--delta", metavar="D", type=float, default=3.0, help="added to green tokens' scores (default 3)")
    add("--context_width", metavar="W", type=int, default=4, help="tokens that decide what is green (default 4)")
    add("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse()
    if (values.base_url is None) != (values.key is None) or not (values.tokenizer or values.checkpoint):
        raise UserError(
            "flags",
            expected="--checkpoint or --tokenizer, and --base_url with --key",
            found="others",
            remedy="see `--help`",
        )
    if values.key:
        watermark = read_watermark(values.key)
    else:
        watermark = Watermark(_key(0), values.gamma, values.delta, values.context_width)
    for name in ("pairs", "answers"):
        if getattr(values, name) < 1:
            found = str(getattr(values, name))
            raise UserError(f"--{name}", expected="a number from 1", found=found, remedy="correct it")
    records = [each.record for each in read_records(values.input) if isinstance(each.record, Instruction)]
    if not records:
        raise UserError(values.input, expected="instructions", found="none", remedy="give another file")
    tokenizer = load_tokenizer(values.tokenizer or values.checkpoint)
    report: dict[str, Any] = {
        "gamma": watermark.gamma,
        "delta": watermark.delta,
        "context_width": watermark.context_width,
        "unmarked": false_positives([record.output for record in records], tokenizer, watermark, values.pairs),
    }
    short = [each for each in records if len(each.instruction) + len(each.input) <= _LONGEST_PROMPT]
    asked = sorted(short, key=lambda record: len(record.output), reverse=True)[: values.answers]
    if values.base_url:
        report["marked_by_server"] = true_positives(ask_server(values.base_url, asked), tokenizer, watermark)
    if values.checkpoint:
        report["marked"] = true_positives(ask_engine(values.checkpoint, asked, watermark), tokenizer, watermark)
    if values.json:
        print_json(report)
    else:
        print(json.dumps(report, indent=1))
    return 0


def _key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def false_positives(texts: Sequence[str], tokenizer: Tokenizer, watermark: Watermark, pairs: int) -> dict[str, Any]:
    """How many of `pairs` pairs of an unmarked text and a key look marked, in all and by the text's length."""
    from scipy.special import bdtri

    ngrams = [distinct_ngrams(tokenizer.encode_response(text), watermark.context_width) for text in texts]
    ngrams = [each for each in ngrams if len(each)]
    tokens_T = np.array([len(each) for each in ngrams])
    all_ngrams, starts_T = np.concatenate(ngrams), np.cumsum(tokens_T) - tokens_T
    kinds_T = np.digitize(tokens_T, _LENGTHS) - 1
    keys = -(-pairs // len(ngrams))
    counts = np.zeros((len(_LENGTHS) - 1, 3), np.int64)  # pairs, z > 4, detected
    for number in track(range(1, keys + 1), "keys"):
        other = Watermark(_key(number), watermark.gamma, watermark.delta, watermark.context_width)
        green_T = np.add.reduceat(green(all_ngrams, other), starts_T, dtype=np.int64)
        counts[:, 0] += np.bincount(kinds_T, minlength=len(counts))
        spread_T = np.sqrt(tokens_T * watermark.gamma * (1 - watermark.gamma))
        for text in np.flatnonzero(green_T - watermark.gamma * tokens_T > (DETECTED_ABOVE - 0.01) * spread_T):
            found = Detection.of(int(green_T[text]), int(tokens_T[text]), watermark.gamma)
            counts[kinds_T[text], 1:] += found.z > DETECTED_ABOVE, found.detected

    def rates(pairs: int, above: int, detected: int) -> dict[str, Any]:
        return {
            "pairs": pairs,
            "z_above_4": above,
            "detected": detected,
            "rate": detected / max(pairs, 1),
            "rate_at_most": float(bdtri(detected, pairs, 0.05)) if pairs > detected else 1.0,
        }

    names = (f"{low}-{high - 1} tokens" for low, high in itertools.pairwise(_LENGTHS))
    return {
        "texts": len(ngrams),
        "keys": keys,
        "median_tokens": float(np.median(tokens_T)),
        **rates(*map(int, counts.sum(axis=0))),
        "by_length": {name: rates(*map(int, each)) for name, each in zip(names, counts, strict=True)},
    }


def true_positives(answers: Sequence[Answer], tokenizer: Tokenizer, watermark: Watermark) -> dict[str, Any]:
    """How many of the answers are found to be marked, with the right key and with another."""
    other = Watermark(_key(1), watermark.gamma, watermark.delta, watermark.context_width)
    kinds: dict[str, Callable[[Answer], bool]] = {
        f"answers_of_{_TOKENS}_tokens": lambda answer: answer.whole_length,
        "shorter_answers": lambda answer: not answer.whole_length,
    }
    report: dict[str, Any] = {}
    for name, belongs in kinds.items():
        tokens = [tokenizer.encode_response(answer.text) for answer in answers if belongs(answer)]
        found = [detect(each, watermark) for each in tokens]
        if not found:
            report[name] = {"answers": 0}
            continue
        report[name] = {
            "answers": len(found),
            "detected": sum(each.detected for each in found),
            "rate": sum(each.detected for each in found) / len(found),
            "detected_with_another_key": sum(detect(each, other).detected for each in tokens),
            "z_quantiles": np.quantile([each.z for each in found], [0, 0.01, 0.05, 0.5]).round(2).tolist(),
            "median_scored_tokens": float(np.median([each.tokens for each in found])),
            "green_share": round(sum(each.green for each in found) / max(1, sum(each.tokens for each in found)), 3),
        }
    return report


def ask_engine(checkpoint: str, records: Sequence[Instruction], watermark: Watermark) -> list[Answer]:
    """The answers of a model in this process."""
    from alpaca_jax.generation.load import load_engine
    from alpaca_jax.generation.settings import Sampling

    engine = load_engine(checkpoint, slots=_TOGETHER, watermark=watermark)
    sampling = Sampling(temperature=_TEMPERATURE, top_p=_TOP_P, max_new_tokens=_TOKENS)
    parts: list[list[str]] = [[] for _ in records]
    whole = [False] * len(records)
    with ProgressBar("answers", len(records)) as bar:
        for number, record in enumerate(records):

            def take(piece: Any, number: int = number) -> None:
                parts[number].append(piece.text)
                if piece.finish_reason:
                    whole[number] = piece.finish_reason == "length"
                    bar.advance(1)

            engine.submit(engine.prompt_ids(record), sampling, take, draw=number)
        while engine.step():
            pass
    return [Answer("".join(text), is_whole) for text, is_whole in zip(parts, whole, strict=True)]


def ask_server(base_url: str, records: Sequence[Instruction]) -> list[Answer]:
    """The answers of a server, eight requests at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none", timeout=600)
    model = client.models.list().data[0].id

    def ask(record: Instruction) -> Answer:
        content = f"{record.instruction}\n\n{record.input}" if record.input else record.instruction
        choice = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=_TOKENS,
            temperature=_TEMPERATURE,
            top_p=_TOP_P,
            seed=0,
        ).choices[0]
        return Answer(choice.message.content or "", choice.finish_reason == "length")

    with ThreadPoolExecutor(8) as pool:
        return list(track(pool.map(ask, records), "answers", len(records)))


if __name__ == "__main__":
    run_program(main)
