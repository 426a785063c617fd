"""`python -m alpaca_jax.evaluate`: models answer, people or a model vote blindly, a report says what came out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.remote.connection import CONNECTION_FLAGS, add_connection_flags, take_connection
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Command, Flags, print_json, require_extra, run_command, run_program

_PROGRAM = "python -m alpaca_jax.evaluate"
_DESCRIPTION = f"""Compares two models blindly: each answers, people or a model vote, and a report says what came out.

  {_PROGRAM} answer    --checkpoint=DIR --out=A.jsonl    (or --base_url and --model, or --outputs)
  {_PROGRAM} pair      --answers=A.jsonl --baseline=B.jsonl --out=PAIRS.json
  {_PROGRAM} annotate  --pairs=PAIRS.json --votes=VOTES.sqlite [--export=VOTES.jsonl]
  {_PROGRAM} judge     --pairs=PAIRS.json --out=VOTES.jsonl --model=NAME [--base_url=URL]
  {_PROGRAM} report    --votes=VOTES.jsonl [--json] [--out=FOLDER]
  {_PROGRAM} diversity --input=FILE --out=PNG

`COMMAND --help` explains each.
"""
_EXTRA = ("evaluate", "statsmodels", "krippendorff", "jinja2")


def main() -> int | None:
    """Runs the command that the arguments name."""
    return run_command(_PROGRAM, _DESCRIPTION, _COMMANDS)


def _flags(command: str, description: str) -> Flags:
    return Flags(prog=f"{_PROGRAM} {command}", description=description)


def _add_json(flags: Flags, what: str) -> None:
    flags.add_argument("--json", action="store_true", help=f"print {what} as one JSON object")


def _given(flags: Flags, arguments: Sequence[str]) -> dict[str, Any]:
    """The values of the flags that are given, so that defaults are said once, where the values go."""
    return {name: value for name, value in vars(flags.parse(arguments)).items() if value is not None}


def _answer_flags() -> Flags:
    flags = _flags(
        "answer",
        "A model answers an instruction set: a checkpoint, or a model behind any server that speaks OpenAI's protocol\n"
        "(its key is OPENAI_API_KEY in the environment), or a file of outputs that another program made. Run again,\n"
        "it goes on where it was stopped. OUT.run.json says how the answers were made.",
    )
    add = flags.add_argument
    add("--checkpoint", metavar="DIR", help="what `convert import` wrote, or a work directory of `train`")
    add("--model", metavar="NAME", help="the server's name of the model")
    add("--outputs", metavar="FILE", type=Path, help="answers with `instruction`, `input` and `output` or `response`")
    add("--input", metavar="FILE", type=Path, help="any instruction file (default: the package's own 68 tasks)")
    add("--out", metavar="FILE.jsonl", type=Path, required=True, help="the answers")
    add("--name", metavar="NAME", help="of the model in the answers (default: the checkpoint's folder, --model, …)")
    add("--temperature", metavar="T", type=float, help="0: greedy (default 0.7)")
    add("--top_p", metavar="P", type=float, help="nucleus (default 0.9)")
    add("--max_new_tokens", metavar="N", type=int, help="(default 600)")
    add("--seed", metavar="N", type=int, help="of a checkpoint's draws (default 0)")
    add("--template", metavar="NAME", help="prompt template, for a checkpoint or --api=completions (default: its own)")
    dtypes = ("float32", "bfloat16", "int8")
    add("--dtype", choices=dtypes, metavar="TYPE", help="float32, bfloat16 or int8: a checkpoint's")
    add_connection_flags(flags)
    _add_json(flags, "counts and cost")
    return flags


def _answer(arguments: Sequence[str]) -> None:
    values = _given(_answer_flags(), arguments)

    from alpaca_jax.evaluation import answering
    from alpaca_jax.evaluation.embedded import QUESTIONS
    from alpaca_jax.generation.settings import Sampling

    as_json, source = values.pop("json"), _source_of(values)
    connection, asked = take_connection(values), values.pop(source)
    decoding = Sampling(**{name: values.pop(name) for name in _DECODING if name in values})
    questions, out = values.pop("input", QUESTIONS), values.pop("out")
    if source == "checkpoint":
        result = answering.from_checkpoint(questions, out, asked, decoding, **values)
    elif source == "model":
        result = answering.from_server(questions, out, asked, decoding, connection, **values)
    else:
        result = answering.from_outputs(questions, out, asked, **values)
    _tell(result, as_json, f"{result['answers']} answers of {result['model']} in {result['out']}")


_DECODING = ("temperature", "top_p", "max_new_tokens", "seed")
_SOURCES = {
    "checkpoint": {*_DECODING, "dtype", "template"},
    "model": {*_DECODING, "api", "template", *CONNECTION_FLAGS},
    "outputs": set[str](),
}


def _source_of(values: dict[str, Any]) -> str:
    """Where the answers come from, checked to be one place, with flags that mean something there."""
    sources = [name for name in _SOURCES if name in values]
    if len(sources) != 1:
        found = " and ".join(f"--{name}" for name in sources) or "none"
        expected = "one of --checkpoint, --model (with --base_url) and --outputs"
        raise UserError("flags", expected=expected, found=found, remedy="see `answer --help`")
    (source,) = sources
    known = {source, "input", "out", "name"} | _SOURCES[source]
    for name in sorted(values.keys() - known):
        found, remedy = f"it with --{source}", "leave it out"
        raise UserError(f"--{name}", expected=f"flags that belong to --{source}", found=found, remedy=remedy)
    return source


def _pair(arguments: Sequence[str]) -> None:
    flags = _flags(
        "pair",
        "Makes blind pairs of two files of answers to the same questions. Which model wrote which answer is in\n"
        "PAIRS.key.json, which only `report` reads. Equal answers are set aside and counted.",
    )
    add = flags.add_argument
    add("--answers", metavar="FILE", type=Path, required=True, help="of the model that the report will be about")
    add("--baseline", metavar="FILE", type=Path, required=True, help="of the model that it is compared with")
    add("--out", metavar="PAIRS.json", type=Path, required=True, help="the pairs")
    add("--model_name", metavar="NAME", help="(default: what the file says, or its own name)")
    add("--baseline_name", metavar="NAME", help="likewise")
    add("--seed", metavar="N", type=int, help="of the sides and each annotator's order (default 0)")
    _add_json(flags, "the counts")
    values = _given(flags, arguments)

    from alpaca_jax.evaluation.pairing import make_pairs

    as_json = values.pop("json")
    result = make_pairs(**values)
    _tell(
        result,
        as_json,
        f"{result['pairs']} pairs of {result['model']} and {result['baseline']} in {values['out']}, "
        f"{result['identical']} questions with equal answers set aside",
    )


def _annotate(arguments: Sequence[str]) -> None:
    from alpaca_jax.evaluation import annotate

    flags = _flags("annotate", annotate.DESCRIPTION)
    annotate.add_flags(flags)
    annotate.run(flags.parse(arguments))


def _diversity(arguments: Sequence[str]) -> None:
    from alpaca_jax.evaluation import diversity

    flags = _flags("diversity", diversity.DESCRIPTION)
    diversity.add_flags(flags)
    diversity.run(flags.parse(arguments))


def _judge(arguments: Sequence[str]) -> None:
    flags = _flags(
        "judge",
        "A model votes on each pair, in both orders, behind any server that speaks OpenAI's protocol (its key is\n"
        "OPENAI_API_KEY in the environment). OUT.requests.jsonl keeps every verdict: run again, it goes on from there.",
    )
    add = flags.add_argument
    add("--pairs", metavar="PAIRS.json", type=Path, required=True, help="what `pair` wrote")
    add("--out", metavar="VOTES.jsonl", type=Path, required=True, help="the votes")
    add("--model", metavar="NAME", required=True, help="the server's name of the model that judges")
    add("--annotator", metavar="NAME", help="the name under which it votes (default: the model's)")
    add("--max_tokens", metavar="N", type=int, help="of a verdict with its reason (default 512)")
    add_connection_flags(flags)
    _add_json(flags, "counts and cost")
    values = _given(flags, arguments)

    require_extra("evaluate judge", *_EXTRA)

    from alpaca_jax.evaluation.judge import JudgeSettings, judge

    as_json, connection = values.pop("json"), take_connection(values)
    pairs, out = values.pop("pairs"), values.pop("out")
    result = judge(pairs, out, JudgeSettings(**values), connection)
    bias = result["position"]
    first = (
        "" if bias["first"] is None else f"; the first answer was preferred in {bias['first']:.1f}% of decided verdicts"
    )
    _tell(result, as_json, f"{result['pairs']} pairs, {result['null']} without a vote, in {out}{first}")


def _report(arguments: Sequence[str]) -> None:
    flags = _flags(
        "report",
        "What votes say: wins, losses, ties, win rate with its interval, a test, agreement, by category and length;\n"
        "of several comparisons also a ranking. Reads what `annotate` and `judge` write, and AlpacaEval's annotations.",
    )
    add = flags.add_argument
    add("--votes", metavar="FILE", type=Path, action="append", required=True, help="may be given several times")
    add("--pairs", metavar="FILE", type=Path, action="append", help="pair files that have been moved since the votes")
    add("--training", metavar="FILE", type=Path, action="append", help="training data to look for the questions in")
    add("--out", metavar="FOLDER", type=Path, help="gets report.md, report.json and report.html")
    _add_json(flags, "the figures, rates in percent,")
    values = _given(flags, arguments)

    require_extra("evaluate report", *_EXTRA)

    from alpaca_jax.evaluation.report import make_report

    as_json = values.pop("json")
    result = make_report(**values)
    if as_json:
        print_json(result)
        return
    from alpaca_jax.evaluation.rendering import as_markdown

    sys.stdout.write(as_markdown(result))


def _tell(result: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(result)
        return
    cost = result.get("cost_usd")
    print(line + (f", cost ${cost:.4f}" if cost is not None else ""))


_COMMANDS: dict[str, Command] = {
    "answer": _answer,
    "pair": _pair,
    "annotate": _annotate,
    "judge": _judge,
    "report": _report,
    "diversity": _diversity,
}

if __name__ == "__main__":
    run_program(main)
