"""Models answer an instruction set: a checkpoint, a server, or a file of outputs that another program made."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alpaca_jax.data.prompt import BOS, DEFAULT_TEMPLATE, EOS, Template, template_named
from alpaca_jax.evaluation.answer_file import answer_line, begin, lines_there, settings_of
from alpaca_jax.evaluation.asking import ask_all
from alpaca_jax.evaluation.questions import Question, answers_to, read_questions
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.remote.connection import Connection, key_and_address
from alpaca_jax.remote.log import RequestLog
from alpaca_jax.remote.protocol import Ask
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, write_bytes_atomic
from alpaca_jax.support.hashing import sha256_file, sha256_text
from alpaca_jax.support.progress import ProgressBar, console

if TYPE_CHECKING:
    from alpaca_jax.generation.engine import Engine
    from alpaca_jax.generation.requests import Piece


# Of the settings, those that can be chosen here, and are noted beside the answers. A server is not sent the seed.
_CHOSEN = ("temperature", "top_p", "max_new_tokens", "seed")


def from_checkpoint(
    questions_path: Path,
    out: Path,
    checkpoint: str,
    decoding: Sampling,
    *,
    name: str | None = None,
    dtype: str | None = None,
    template: str | None = None,
) -> dict[str, Any]:
    """A checkpoint answers, several questions at a time; each answer is on disk as soon as it is finished.

    The answers after a kill are those that there would have been without it.

    Returns:
      `answers`, `model`, `out`.

    Raises:
      UserError: questions or a checkpoint that cannot be read, or an `out` begun with something else.
    """
    from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
    from alpaca_jax.generation.load import load_engine

    questions = read_questions(questions_path)
    folder = CheckpointFolder.open(checkpoint)
    chosen = template_to_use(folder, template)
    how = {
        "source": "checkpoint",
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": _checkpoint_sha256(folder.path, folder.step),
        "dtype": dtype,
        **_described(chosen),
    }
    name = name or Path(checkpoint).resolve().name
    begin(out, {"model": name, **how, "decoding": _recorded(decoding)}, questions_path)
    there = lines_there(out, questions)
    missing = [number for number, question in enumerate(questions) if question.id not in there]
    if there and missing:
        console.print(f"going on after {len(there)} answers in {out}", markup=False)
    if missing:
        engine = load_engine(checkpoint, dtype, template)
        with explain_os_errors(out), open(out, "ab") as file, ProgressBar("answers", len(questions), len(there)) as bar:

            def finished(number: int, text: str, reason: str) -> None:
                line = answer_line(questions[number], chosen.answer_in(text), name, reason)
                there[questions[number].id] = line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                bar.advance()

            _run(engine, questions, missing, decoding, finished)
        write_bytes_atomic(out, b"".join(there[question.id] for question in questions))
    return {"answers": len(questions), "model": name, "out": str(out)}


def _run(
    engine: "Engine",
    questions: Sequence[Question],
    numbers: Sequence[int],
    decoding: Sampling,
    finished: Callable[[int, str, str], None],
) -> None:
    """Answers the questions with these numbers; `finished` gets number, text and reason of each as it ends.

    All are looked at before the first is answered.
    """
    prompts = [engine.prompt_ids(questions[number].record) for number in numbers]
    for number, ids in zip(numbers, prompts, strict=True):
        engine.check_prompt(ids, questions[number].place)
    for number, ids in zip(numbers, prompts, strict=True):
        texts: list[str] = []

        def collect(piece: "Piece", number: int = number, texts: list[str] = texts) -> None:
            texts.append(piece.text)
            if piece.finish_reason:
                finished(number, "".join(texts), piece.finish_reason)

        # What is drawn depends on the question's number, and not on what stands beside it or was answered before.
        engine.submit(ids, decoding, collect, draw=number)
    while engine.step():
        pass


def from_server(
    questions_path: Path,
    out: Path,
    model: str,
    decoding: Sampling,
    connection: Connection,
    *,
    name: str | None = None,
    api: Literal["chat", "completions"] = "chat",
    template: str | None = None,
) -> dict[str, Any]:
    """A model behind a server answers.

    Args:
      questions_path: the instruction file.
      out: the answers.
      model: the server's name of the model.
      decoding: how it draws.
      connection: the server, its limits and the budget.
      name: of the model in the answers; None for `model`.
      api: `chat`: the server puts the instruction into its own template; `completions`: it continues `template`.
      template: for `completions`; None for Alpaca's.

    Returns:
      `answers`, `model`, `out`, and the counts and cost of `asking.ask_all`.

    Raises:
      UserError: questions that cannot be read; otherwise as `asking.ask_all`.
    """
    questions = read_questions(questions_path)
    if template and api == "chat":
        remedy = "leave one out: in a chat the server has its own template"
        raise UserError("--template", expected="--api=completions with it", found="--api=chat", remedy=remedy)
    chosen = template_named(template or DEFAULT_TEMPLATE) if api == "completions" else None
    how = {"source": "server", "api": api, **(_described(chosen) if chosen else {})}
    name = name or model
    key_and_address(connection.base_url)
    connection.account(model)  # refuses a budget without a price before anything is begun
    begin(out, {"model": name, **how, "asked": model, "decoding": _recorded(decoding)}, questions_path)
    asks = [_ask(question, model, decoding, chosen) for question in questions]
    counts = ask_all(asks, connection, out, settings_of(out), lambda log: _write(out, questions, log, name), "answers")
    return {"answers": len(questions), "model": name, "out": str(out), **counts}


def _recorded(decoding: Sampling) -> dict[str, Any]:
    return {name: getattr(decoding, name) for name in _CHOSEN}


def _ask(question: Question, model: str, decoding: Sampling, template: Template | None) -> Ask:
    """The request for an answer: in a chat, or where there is a template, as a text to be continued."""
    return Ask(
        key=question.id,
        model=model,
        prompts=(_prompt(question, template) if template else question.text,),
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        chat=template is None,
    )


def _prompt(question: Question, template: Template) -> str:
    """A question in a template, as one text; the token that begins a text is the server's to add."""
    segments = template.prompt(question.record)
    if any(segment.special and segment.text == EOS for segment in segments):
        raise UserError(
            "--template",
            expected="one whose prompts are texts alone",
            found=f"{template.name!r}, which writes the tokenizer's own end token",
            remedy="use --api=chat",
        )
    return "".join(segment.text for segment in segments if not (segment.special and segment.text == BOS))


def _write(out: Path, questions: Sequence[Question], log: RequestLog, name: str) -> None:
    """Writes the answers that a log has so far, in the order of the questions."""
    lines = []
    for question in questions:
        if answer := log.answers.get(question.id):
            choice = answer.choices[0]
            lines.append(answer_line(question, choice.text.strip(), name, choice.finish))
        elif question.id in log.given_up:
            lines.append(answer_line(question, "", name, "given_up"))
    write_bytes_atomic(out, b"".join(lines))


def _described(template: Template) -> dict[str, str]:
    return {"template": template.name, "template_sha256": template.sha256}


def from_outputs(questions_path: Path, out: Path, outputs: Path, *, name: str | None = None) -> dict[str, Any]:
    """Brings a file of outputs that another program made into our form, each to its question.

    Returns:
      `answers`, `model`, `out`.

    Raises:
      UserError: files that cannot be read, or outputs that do not answer the questions.
    """
    questions = read_questions(questions_path)
    answers = answers_to(questions, outputs, questions_path)
    names = {answer.model for answer in answers}
    name = name or (names.pop() if len(names) == 1 and names != {""} else outputs.stem)
    with explain_os_errors(outputs):
        how = {"source": "outputs", "outputs": str(outputs), "outputs_sha256": sha256_file(outputs)}
    begin(out, {"model": name, **how}, questions_path)
    lines = [answer_line(question, answer.output, name) for question, answer in zip(questions, answers, strict=True)]
    write_bytes_atomic(out, b"".join(lines))
    return {"answers": len(questions), "model": name, "out": str(out)}


def _checkpoint_sha256(folder: Path, step: str) -> str:
    """A hash of what describes a checkpoint to the bit: its model.json, certificate and checksums, with their names."""
    from alpaca_jax.checkpoint.integrity import CHECKSUMS
    from alpaca_jax.checkpoint.store import Store

    with Store(folder) as store:
        number = store.find(step)
    names = ("model.json", "certificate.json", f"{number}/{CHECKSUMS}")
    there = [name for name in names if (folder / name).is_file()]
    return sha256_text("".join(f"{name} {sha256_file(folder / name)}\n" for name in there))
