"""`python -m alpaca_jax.watermark`: makes the key of a watermark, and finds the watermark in texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Command, Flags, print_json, run_command, run_program

if TYPE_CHECKING:
    from alpaca_jax.generation.watermark import Detection

_PROGRAM = "python -m alpaca_jax.watermark"
_DESCRIPTION = f"""Makes the key of a watermark, and finds the watermark in texts.

  {_PROGRAM} key    --out=FILE
  {_PROGRAM} detect --key=FILE --tokenizer=PATH --input=FILE [--json]

`generate` and `serve` put the watermark into their answers with --watermark_key=FILE. The key is a secret: who has it
can find the watermark, and wash it out. `COMMAND --help` explains each.
"""
_KEY_DESCRIPTION = """\
Makes a key, a small file that only its owner may read, with the watermark's settings. It must not exist yet.
"""
_DETECT_DESCRIPTION = """\
Says of each text whether it has the watermark: green tokens g of T scored ones (each n-gram once, however often it
comes), z = (g − γT) / √(Tγ(1 − γ)), and p, the chance of this in an unmarked text. Detected: z > 4, and p ≤ 0.0001 by
the exact binomial distribution as well, which for texts of fewer than 121 tokens may ask for more.

FILE.jsonl and FILE.json hold records with a field `output` or `text`; any other file is one text. --json prints
z, p, p_exact, tokens (T), green (g) and detected: of the one text, or of all of them as a list under `texts`.
"""


def main() -> int | None:
    """Runs the command that the arguments name."""
    return run_command(_PROGRAM, _DESCRIPTION, _COMMANDS)


def _key(arguments: Sequence[str]) -> None:
    flags = Flags(prog=f"{_PROGRAM} key", description=_KEY_DESCRIPTION)
    flags.add_argument("--out", metavar="FILE", required=True, help="the file to make")
    flags.add_argument("--gamma", metavar="G", type=float, default=0.25, help="share of green tokens (default 0.25)")
    flags.add_argument(
        "--delta", metavar="D", type=float, default=3.0, help="added to the scores of green tokens (default 3)"
    )
    flags.add_argument(
        "--context_width", metavar="W", type=int, default=4, help="tokens that decide what is green next (default 4)"
    )
    values = flags.parse(arguments)

    from alpaca_jax.generation.watermark_files import write_watermark

    write_watermark(values.out, values.gamma, values.delta, values.context_width)
    print(f"{values.out}: a new key; keep it secret, and keep it: without it no watermark is found")


def _detect(arguments: Sequence[str]) -> None:
    flags = Flags(prog=f"{_PROGRAM} detect", description=_DETECT_DESCRIPTION)
    flags.add_argument("--key", metavar="FILE", required=True, help="what `key` made, as given to generate or serve")
    flags.add_argument(
        "--tokenizer",
        metavar="PATH",
        required=True,
        help="the model's: a file, or a folder with it, such as a checkpoint",
    )
    flags.add_argument("--input", metavar="FILE", required=True, help="one text, or records with a text each")
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse(arguments)

    from alpaca_jax.generation.watermark_files import holds_records, read_texts, read_watermark

    watermark = read_watermark(values.key)

    from alpaca_jax.data.tokenizer import load_tokenizer
    from alpaca_jax.generation.watermark import detect

    tokenizer = load_tokenizer(values.tokenizer)
    # All of them before anything is printed: a fault in the last record is found first.
    found = [(place, detect(tokenizer.encode_response(text), watermark)) for place, text in read_texts(values.input)]
    if not found:
        raise UserError(values.input, expected="at least one text", found="none", remedy="give another file")
    if not values.json:
        for place, detection in found:
            print(f"{place}: {_in_words(detection)}")
    elif holds_records(values.input):
        print_json({"texts": [detection._asdict() for _, detection in found]})
    else:
        print_json(found[0][1]._asdict())


def _in_words(detection: "Detection") -> str:
    verdict = "marked" if detection.detected else "no watermark found"
    return (
        f"{verdict}: z {detection.z:.2f}, p {detection.p:.2g} (exact {detection.p_exact:.2g}), "
        f"{detection.green} of {detection.tokens} tokens green"
    )


_COMMANDS: dict[str, Command] = {"key": _key, "detect": _detect}

if __name__ == "__main__":
    run_program(main)
