"""Two answer files to blind pairs."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from alpaca_jax.evaluation.pairs import Key, Letter, Pair, Pairs, key_path, write_pairs
from alpaca_jax.evaluation.questions import Answered, answers_to, read_answers
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_json


def make_pairs(
    answers: Path,
    baseline: Path,
    out: Path,
    *,
    model_name: str | None = None,
    baseline_name: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes the blind pairs of two answer files, and their key beside them.

    Args:
      answers: of the model that the report will be about.
      baseline: of the one that it is compared with.
      out: the pair file to make; it must not exist yet.
      model_name, baseline_name: None for the names in the files, or of the files where they hold none.
      seed: of the letters, and of each annotator's order and sides.

    Returns:
      `pairs`, `identical` (numbers), `model`, `baseline` (names).

    Raises:
      UserError: files that do not answer the same questions; models of the same name; nothing left to compare; `out` or
        its key exists.
    """
    for path in (out, key_path(out)):
        if path.exists():
            remedy = "choose another name; votes may belong to that file"
            raise UserError(str(path), expected="a file that does not exist yet", found="one", remedy=remedy)
    ours = read_answers(answers)
    theirs = answers_to([answer.question for answer in ours], baseline, answers)
    names = [model_name or _name_in(ours, answers), baseline_name or _name_in(theirs, baseline)]
    if names[0] == names[1]:
        raise UserError(
            f"{answers} and {baseline}",
            expected="answers of two models",
            found=f"the name {names[0]!r} for both",
            remedy="name them with --model_name and --baseline_name",
        )
    pairs, key = _pair(ours, theirs, names, seed)
    if not pairs.pairs:
        remedy = "check that these are the right files"
        raise UserError(f"{answers} and {baseline}", expected="answers that differ", found="none", remedy=remedy)
    write_pairs(out, pairs, key)
    return {
        "pairs": len(pairs.pairs),
        "identical": len(key.identical),
        "model": key.model,
        "baseline": key.baseline,
    }


def _pair(ours: Sequence[Answered], theirs: Sequence[Answered], names: Sequence[str], seed: int) -> tuple[Pairs, Key]:
    # Whoever reads the pair file knows the seed, and is not to find the letters by it.
    generator = random.Random(f"{seed}/{sha256_json([[answer.output for answer in ours], names])}")
    pairs: list[Pair] = []
    writer_of_a: dict[str, Literal["model", "baseline"]] = {}
    identical = []
    for our, their in zip(ours, theirs, strict=True):
        question = our.question if our.question.input else their.question  # the one with the input apart reads better
        name = our.question.id
        ours_is_a = generator.random() < 0.5
        if our.output.strip() == their.output.strip():
            identical.append(name)
            continue
        letters: tuple[Letter, Letter] = ("a", "b") if ours_is_a else ("b", "a")
        texts = dict(zip(letters, (our.output.strip(), their.output.strip()), strict=True))
        category = our.question.category or their.question.category
        instruction, material = question.instruction.strip(), question.input.strip()
        pairs.append(Pair(name, instruction, material, category, texts["a"], texts["b"]))
        writer_of_a[name] = "model" if ours_is_a else "baseline"
    return Pairs(seed, tuple(pairs)), Key(names[0], names[1], writer_of_a, tuple(identical))


def _name_in(answers: Sequence[Answered], path: Path) -> str:
    """The model that all answers of a file name, or the file's own name."""
    names = {answer.model for answer in answers}
    return names.pop() if len(names) == 1 and names != {""} else path.stem
