"""An audit of instruction files: what the program `audit` does, in order."""

import contextlib
import dataclasses
import itertools
from pathlib import Path

from alpaca_jax.data.audit.cleaned import check_place, cleaned_file
from alpaca_jax.data.audit.forms import read_instruction_values
from alpaca_jax.data.audit.inspection import Inspector
from alpaca_jax.data.audit.kinds import KINDS
from alpaca_jax.data.audit.lengths import Lengths
from alpaca_jax.data.audit.likeness import EvaluationSet
from alpaca_jax.data.audit.report import Report
from alpaca_jax.data.record_files import is_json_list
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import track

_TOGETHER = 256  # records tokenised in one call


@dataclasses.dataclass(frozen=True)
class Request:
    """What to audit, and how.

    Attributes:
      inputs: instruction files, read in this order.
      near: the ROUGE-L F above which instructions are near-duplicates, and tasks those of the evaluation set.
      evaluation: files of tasks that the inputs must not hold.
      tokenizer: a tokenizer's file or folder, and
      seq_len: the length of rows that a record is to fit; both or neither.
      fix: where to write the cleaned file, if anywhere.
    """

    inputs: tuple[Path, ...]
    near: float = 0.7
    evaluation: tuple[Path, ...] = ()
    tokenizer: Path | None = None
    seq_len: int | None = None
    fix: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what does not go together.

        Raises:
          UserError: a value outside its range, one of two flags without the other, a `fix` that exists.
        """
        if not 0 < self.near <= 1:
            remedy = "try 0.7; 1 compares nothing"
            raise UserError("--near", expected="above 0, at most 1", found=str(self.near), remedy=remedy)
        if (self.tokenizer is None) != (self.seq_len is None):
            given, other = ("--tokenizer", "--seq_len") if self.seq_len is None else ("--seq_len", "--tokenizer")
            raise UserError(given, expected=f"{other} with it", found="it alone", remedy="give both or neither")
        if self.seq_len is not None and self.seq_len < 1:
            raise UserError("--seq_len", expected="1 or more", found=str(self.seq_len), remedy="try 512, as Alpaca did")
        if self.fix:
            check_place(self.fix, self.inputs + self.evaluation)


def audit(request: Request) -> Report:
    """Inspects every record of the inputs, and writes the cleaned file where one is wanted.

    The file has the records in the order and the form in which they were read; it is a JSON list if the first input is
    one, else JSON lines. The same inputs give the same bytes. What was changed or dropped is in its log.

    Raises:
      UserError: an input, tokenizer or evaluation file that cannot be read; a cleaned file that cannot be written.
    """
    lengths = Lengths(request.tokenizer, request.seq_len) if request.tokenizer and request.seq_len else None
    evaluation = EvaluationSet(request.evaluation, request.near) if request.evaluation else None
    inspector = Inspector(request.near, evaluation)
    unasked = {"contaminated": evaluation, "too_long": lengths, "near_duplicate": request.near < 1}
    report = Report([str(path) for path in request.inputs], [kind for kind in KINDS if unasked.get(kind, True)])
    with contextlib.ExitStack() as stack:
        cleaned = None
        if request.fix:
            cleaned = stack.enter_context(cleaned_file(request.fix, listed=is_json_list(request.inputs[0])))
        for path in request.inputs:
            values = iter(track(read_instruction_values(path), f"auditing {path.name}"))
            while verdicts := [inspector.inspect(value) for value in itertools.islice(values, _TOGETHER)]:
                too_long = lengths.find(verdicts) if lengths else [None] * len(verdicts)
                for verdict, over in zip(verdicts, too_long, strict=True):
                    report.add(verdict, over)
                    if cleaned:
                        cleaned.write(verdict)
    report.written = request.fix
    return report
