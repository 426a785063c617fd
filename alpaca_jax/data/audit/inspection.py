"""One record through every check, in order: what is wrong with it, and what takes its place."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from alpaca_jax.data.audit.abilities import beyond_text
from alpaca_jax.data.audit.encoding import repair_text
from alpaca_jax.data.audit.endings import cut_answer
from alpaca_jax.data.audit.forms import rebuilt, tasks_of, with_texts
from alpaca_jax.data.audit.kinds import KINDS, Check, Found, excerpt
from alpaca_jax.data.audit.likeness import Duplicates, EvaluationSet, NearDuplicates
from alpaca_jax.data.audit.markers import empty_output, merged, no_output, noinput
from alpaca_jax.data.audit.material import missing_material
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.data.record_files import Value

# Each sees what those before it left; what one changed, always to something shorter, goes through all of them again.
_CHECKS: tuple[Check, ...] = (merged, noinput, empty_output, no_output, missing_material, cut_answer)


@dataclasses.dataclass(frozen=True)
class Change:
    """What a fault leads to: the record, or one task of it, before, and what stands there after (nothing: dropped)."""

    found: Found
    before: dict[str, Any]
    after: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is wrong with a record and what is left of it.

    Attributes:
      value: the record as read.
      found: its faults, the first of each kind.
      changes: what is to be done about them, in order.
      kept: the records that take its place, equal to it alone where nothing is to be done.
      tasks: the tasks of `kept`.
    """

    value: Value
    found: list[Found]
    changes: list[Change]
    kept: list[dict[str, Any]]
    tasks: list[Instruction]


class Inspector:
    """Inspects records one after another; remembers what it needs to find those that are alike."""

    def __init__(self, near: float, evaluation: EvaluationSet | None):
        """Nothing seen.

        Args:
          near: the ROUGE-L F above which an instruction is a near-duplicate; 1 finds none.
          evaluation: the tasks that training data must not hold.
        """
        self._duplicates, self._evaluation = Duplicates(), evaluation
        self._near = NearDuplicates(near) if near < 1 else None

    def inspect(self, value: Value) -> Verdict:
        """The record's faults and what is left of it.

        Raises:
          UserError: a fault of structure, as the reader names it.
        """
        tasks = tasks_of(value)
        found: list[Found] = []

        def repair(text: str) -> str:
            repaired, faults = repair_text(text)
            found.extend(faults)
            return repaired

        record = with_texts(value.value, repair)
        changes = [Change(fault, value.value, [record]) for fault in found if KINDS[fault.kind].policy != "left"]
        if changes:
            tasks = tasks_of(value._replace(value=record))
        results = []
        for task in tasks:
            result, steps = self._settle(task, value.place, is_chat="messages" in record)
            results.append(result)
            changes += steps
        kept = rebuilt(record, results)
        if "messages" in record:
            kept, doubled = self._first_chats(kept, value.place)
            changes += doubled
        openings = [tasks_of(value._replace(value=record)) for record in kept]
        tasks = [task for opening in openings for task in opening]
        found += [change.found for change in changes]
        found += filter(None, map(beyond_text, tasks))
        if self._near and (near := self._near.find([first.instruction for first, *_ in openings], value.place)):
            found.append(near)
        return Verdict(value, list({fault.kind: fault for fault in reversed(found)}.values()), changes, kept, tasks)

    def _settle(self, task: Instruction, place: str, is_chat: bool) -> tuple[list[Instruction], list[Change]]:
        """What is left of a task when no check finds a fault any more, and the changes that led there."""
        waiting, settled, changes = [task], [], []
        while waiting:
            task = waiting.pop(0)
            fault = next(filter(None, (check(task) for check in _CHECKS)), None)
            if not fault and self._evaluation:
                fault = self._evaluation.find(task)
            if not fault and not is_chat:
                fault = self._doubled([task.instruction, task.input, task.output], place)
            if fault:
                result = list(fault.result or ())
                changes.append(Change(fault, dataclasses.asdict(task), [dataclasses.asdict(left) for left in result]))
                waiting[:0] = result
            else:
                settled.append(task)
        return settled, changes

    def _first_chats(self, chats: list[dict[str, Any]], place: str) -> tuple[list[dict[str, Any]], list[Change]]:
        """The chats that were not seen before; a turn may be like another's, a whole chat may not."""
        faults = [self._doubled([message["content"] for message in chat["messages"]], place) for chat in chats]
        changes = [Change(fault, chat, []) for chat, fault in zip(chats, faults, strict=True) if fault]
        return [chat for chat, fault in zip(chats, faults, strict=True) if not fault], changes

    def _doubled(self, texts: Sequence[str], place: str) -> Found | None:
        first = self._duplicates.find(texts, place)
        return Found("duplicate", f"the same as {first}", excerpt(texts[0]), ()) if first else None
