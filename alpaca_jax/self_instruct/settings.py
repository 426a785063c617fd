"""What to make and how: the flags of `selfinstruct`, checked before any work."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, TypeAlias

from alpaca_jax.remote.connection import Connection
from alpaca_jax.support.continued import check_name
from alpaca_jax.support.errors import UserError

Mode: TypeAlias = Literal["alpaca", "self_instruct"]
Interface: TypeAlias = Literal["chat", "completions"]

# May differ from one start to the next without another content of the output.
_FREE = {"out", "num", "connection", "dry_run", "seeds", "topics"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A data set to make.

    Attributes:
      seeds: file of seed tasks.
      out: file of the new records; its provenance and the log of requests lie beside it.
      num: how many records to make.
      model: the server's name of the model.
      mode: `alpaca` asks for whole tasks, many at a time; `self_instruct` for instructions first, then for each whether
        it is a classification, then for its instances.
      api: `chat`, or `completions` for models that only continue a text.
      connection: the server, its limits and the budget.
      seed: of the random choices.
      temperature, top_p, max_tokens: of the requests that make tasks.
      machine_tasks: at most so many of a prompt's examples are earlier records; the rest are seeds.
      near: ROUGE-L F above which an instruction is a near-duplicate of another.
      domain: a description of what the tasks are to be about.
      topics: file of topics, one a line, of which each prompt gets the one with the fewest records.
      language: of the tasks; any but English has no filter for letters outside ASCII.
      judge: a model that scores each record from 1 to 10.
      judge_min: records with a lower score are dropped.
      dry_run: only make so many requests, and predict what all would cost.
    """

    seeds: Path
    out: Path
    num: int
    model: str
    mode: Mode = "alpaca"
    api: Interface = "chat"
    connection: Connection = dataclasses.field(default_factory=Connection)
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 3072
    machine_tasks: int | None = None
    near: float = 0.7
    domain: str = ""
    topics: Path | None = None
    language: str = "English"
    judge: str | None = None
    judge_min: int = 1
    dry_run: int | None = None

    def __post_init__(self) -> None:
        """Refuses what is out of range or does not go together.

        Raises:
          UserError: with the flag.
        """
        for flag in ("num", "max_tokens"):
            self._require(flag, getattr(self, flag) > 0, "more than 0")
        self._require("dry_run", self.dry_run is None or self.dry_run >= 1, "at least 1")
        self._require("temperature", 0 <= self.temperature <= 2, "from 0 to 2")
        self._require("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self._require("near", 0 < self.near <= 1, "above 0, at most 1")
        self._require("judge_min", 1 <= self.judge_min <= 10, "from 1 to 10")
        examples = self.examples
        self._require("machine_tasks", 0 <= self.most_machine_tasks <= examples, f"from 0 to {examples}")
        if self.judge is None and self.judge_min > 1:
            remedy = "give a model that judges"
            raise UserError("--judge_min", expected="--judge with it", found="it alone", remedy=remedy)
        check_name(self.out)

    def _require(self, flag: str, holds: bool, expected: str) -> None:
        if not holds:
            found = str(getattr(self, flag))
            raise UserError(f"--{flag}", expected=expected, found=found, remedy="see --help for its meaning")

    @property
    def examples(self) -> int:
        """Examples in a prompt: three tasks as in Alpaca, or eight instructions as in self-instruct."""
        return 3 if self.mode == "alpaca" else 8

    @property
    def most_machine_tasks(self) -> int:
        """`machine_tasks`, or what the recipe of the mode has."""
        if self.machine_tasks is not None:
            return self.machine_tasks
        return 0 if self.mode == "alpaca" else 2

    @property
    def english(self) -> bool:
        """Whether the tasks are in English."""
        return self.language.casefold() == "english"

    def identity(self) -> dict[str, Any]:
        """What decides the content of the output: a log begun with other values is another data set's."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["machine_tasks"] = self.most_machine_tasks
        return {name: value for name, value in values.items() if name not in _FREE}
