"""`python -m alpaca_jax.generate`: a checkpoint answers a prompt, a file of them, or a person in the terminal."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import check_file_place, read_json_lines, write_json_lines_atomic
from alpaca_jax.support.program import Flags, run_program

if TYPE_CHECKING:
    from alpaca_jax.data.instructions import Record
    from alpaca_jax.generation.engine import Engine
    from alpaca_jax.generation.settings import Sampling

_DESCRIPTION = """\
A checkpoint answers.

  python -m alpaca_jax.generate --checkpoint=DIR --instruction="Name the capital of Kenya."
  python -m alpaca_jax.generate --checkpoint=DIR --prompt="The capital of Kenya is" --temperature=0
  python -m alpaca_jax.generate --checkpoint=DIR --input=questions.jsonl --out=answers.jsonl
  python -m alpaca_jax.generate --checkpoint=DIR --chat

In a chat Ctrl-C ends an answer; where none is under way, it ends the chat.
"""

# One prompt may be this long, in characters; a longer one is a mistake that would only fill the memory.
_LONGEST_PROMPT = 1_000_000

# Answers to a file's prompts that are made together.
_SLOTS = 8


def main() -> None:
    """Parses the flags, loads the checkpoint and prints or writes the answers."""
    values = _flags().parse()
    prompts, records = _read(values)
    if values.out is not None:
        check_file_place(values.out)

    from alpaca_jax.generation.settings import Sampling
    from alpaca_jax.generation.watermark_files import read_watermark

    sampling = Sampling(
        values.temperature,
        values.top_p,
        values.max_new_tokens,
        values.seed,
        top_k=values.top_k,
        repetition_penalty=values.repetition_penalty,
        stop=tuple(values.stop),
    )
    watermark = read_watermark(values.watermark_key) if values.watermark_key else None

    from alpaca_jax.generation.load import load_generator
    from alpaca_jax.support.progress import ProgressBar

    slots = 1 if values.out is None else _SLOTS
    generator = load_generator(values.checkpoint, values.dtype, values.template, slots=slots, watermark=watermark)
    if values.chat:
        _chat(generator.engine, sampling)
        return
    if values.out is None:
        print(generator.answer(prompts, sampling)[0])
        return
    with ProgressBar("answers", len(prompts)) as bar:
        answers = generator.answer(prompts, sampling, bar.advance)
    answered = (record | {"output": answer} for record, answer in zip(records, answers, strict=True))
    write_json_lines_atomic(values.out, answered)


def _chat(engine: "Engine", sampling: "Sampling") -> None:
    from alpaca_jax.generation.chat import converse

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lines can then be edited)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    converse(engine, sampling, lambda: input("> " if sys.stdin.isatty() else ""), write)


def _flags() -> Flags:
    flags = Flags(prog="python -m alpaca_jax.generate", description=_DESCRIPTION)
    flags.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="what `convert import` wrote, or a work directory of `train`; DIR/best, DIR/200: that save",
    )
    flags.add_argument("--instruction", metavar="TEXT", help="put into the prompt template")
    flags.add_argument("--context", metavar="TEXT", help="the instruction's input, if it has one")
    flags.add_argument("--template", metavar="NAME", help="(default: the checkpoint's own; if it has none, alpaca)")
    flags.add_argument("--prompt", metavar="TEXT", help="taken as it is, and continued")
    flags.add_argument(
        "--input", metavar="FILE", help='JSON lines {"prompt": …} (as it is), {"instruction": …} or {"messages": […]}'
    )
    flags.add_argument("--out", metavar="FILE", type=Path, help="where the lines of --input go, with `output` added")
    flags.add_argument("--chat", action="store_true", help="talk in the terminal, turn by turn")
    flags.add_argument("--temperature", type=float, default=0.7, metavar="T", help="0: greedy (default: %(default)s)")
    flags.add_argument("--top_p", type=float, default=0.9, metavar="P", help="nucleus (default: %(default)s)")
    flags.add_argument("--top_k", type=int, default=0, metavar="K", help="among the K likeliest (default: all)")
    flags.add_argument(
        "--repetition_penalty", type=float, default=1.0, metavar="R", help="of tokens there already (default: none)"
    )
    flags.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")
    flags.add_argument("--max_new_tokens", type=int, default=600, metavar="N", help="(default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (default: %(default)s)")
    flags.add_argument(
        "--dtype", choices=("float32", "bfloat16", "int8"), help="of weights (default: bfloat16, on a CPU float32)"
    )
    flags.add_argument(
        "--watermark_key", metavar="FILE", help="mark the answers with the key that `watermark key` made"
    )
    return flags


def _read(values: argparse.Namespace) -> "tuple[list[str | Record], list[dict]]":
    """The prompts, and the records that they come from."""
    given = [name for name in ("instruction", "prompt", "input") if getattr(values, name) is not None]
    given += ["chat"] if values.chat else []
    if len(given) != 1 or (given == ["input"]) != (values.out is not None):
        raise UserError(
            "flags",
            expected="one of --instruction, --prompt, --chat, or --input together with --out",
            found=", ".join(f"--{name}" for name in [*given, *(["out"] if values.out is not None else [])]) or "none",
            remedy="see `--help`",
        )
    if values.context is not None and given != ["instruction"]:
        raise UserError("--context", expected="--instruction with it", found=f"--{given[0]}", remedy="leave it out")
    if values.chat:
        return [], []
    if values.instruction is not None:
        return [_prompt_of({"instruction": values.instruction, "input": values.context or ""}, "--instruction")], [{}]
    if values.prompt is not None:
        return [_prompt_of({"prompt": values.prompt}, "--prompt")], [{}]
    records, prompts = [], []
    for number, record in read_json_lines(values.input):
        prompts.append(_prompt_of(record, f"{values.input}, line {number}"))
        records.append(record)
        _check_unicode(json.dumps(record, ensure_ascii=False), f"{values.input}, line {number}")  # it is written again
    if not prompts:
        raise UserError(values.input, expected="at least one line", found="none", remedy="check the file")
    return prompts, records


def _prompt_of(record: object, place: str) -> "str | Record":
    """A text to be continued as it is, or a record to be put into the template."""
    from alpaca_jax.data.instructions import Instruction, conversation_of

    prompt: str | Record = ""
    texts: list[str] = []
    if isinstance(record, dict) and "messages" in record:
        prompt = conversation_of(record["messages"], place)
        texts = prompt.identity() if prompt.messages[-1].role == "user" else []
    elif isinstance(record, dict):
        fields = [record.get("prompt", ""), record.get("instruction", ""), record.get("input") or ""]
        if all(isinstance(field, str) for field in fields) and any(fields[:2]):
            texts = fields[:1] if fields[0] else fields[1:]
            prompt = fields[0] or Instruction(fields[1], fields[2], "")
    if not texts:
        raise UserError(
            place,
            expected='{"prompt": TEXT}, {"instruction": TEXT, "input": TEXT} or {"messages": LIST} that the user ends',
            found=shorten(record),
            remedy="give it a text",
        )
    if (length := sum(map(len, texts))) > _LONGEST_PROMPT:
        found = f"{length:,}"
        raise UserError(place, expected=f"1 to {_LONGEST_PROMPT:,} characters", found=found, remedy="shorten it")
    for text in texts:
        _check_unicode(text, place)
    return prompt


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found, remedy = "half of a surrogate pair, or bytes that are not UTF-8", "correct it"
        raise UserError(place, expected="Unicode text", found=found, remedy=remedy) from error


if __name__ == "__main__":
    run_program(main)
