"""The forms of a record as its tasks, for the checks, and back again, every other field as it was."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.data.instructions import Conversation, Instruction, read_records, records_of
from alpaca_jax.data.record_files import Value, read_values


def read_instruction_values(path: Path) -> Iterable[Value]:
    """The raw records of an instruction file, in order.

    Raises:
      UserError: as `read_records`.
    """
    value = None
    for value in read_values(path):
        yield value
    if value is None:
        list(read_records(path))  # says what an empty file lacks


def tasks_of(value: Value) -> list[Instruction]:
    """The tasks of a record: itself, one for each instance, or, of a chat, one for each turn with its answer.

    Raises:
      UserError: a fault of structure, as the reader names it.
    """
    tasks: list[Instruction] = []
    for located in records_of(value):
        if isinstance(located.record, Conversation):
            turns = [message for message in located.record.messages if message.role != "system"]
            asked, answers = turns[::2], turns[1::2]
            tasks += [Instruction(a.content, "", b.content) for a, b in zip(asked, answers, strict=True)]
        else:
            tasks.append(located.record)
    return tasks


def with_texts(record: dict[str, Any], repair: Callable[[str], str]) -> dict[str, Any]:
    """A copy of a record, of which every text that a model would see has gone through `repair`."""

    def repaired(part: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
        texts = {field: repair(part[field]) for field in fields if isinstance(part.get(field), str)}
        return {**part, **texts}

    if "messages" in record:
        return {**record, "messages": [repaired(message, ["content"]) for message in record["messages"]]}
    record = repaired(record, ["instruction", "input", "output"])
    if "instances" in record:
        record["instances"] = [repaired(instance, ["input", "output"]) for instance in record["instances"]]
    return record


def rebuilt(record: dict[str, Any], results: Sequence[Sequence[Instruction]]) -> list[dict[str, Any]]:
    """What takes a record's place, in its form.

    Args:
      record: the record.
      results: for each of its tasks what became of it: nothing, itself, another, or itself and further ones, which
        become records of their own. A chat that loses a turn is lost, an instance only itself.
    """
    if "messages" in record:
        if not all(results):
            return []
        return [_rebuilt_chat(record, [first for first, *_ in results]), *map(_new_chat, _further(results))]
    if "instances" in record:
        kept = [(instance, result[0]) for instance, result in zip(record["instances"], results, strict=True) if result]
        instances = [_with_fields(instance, task, ("input", "output")) for instance, task in kept]
        first = [{**record, "instruction": kept[0][1].instruction, "instances": instances}] if kept else []
        return [*first, *map(_new_task, _further(results))]
    (tasks,) = results
    first = [_with_fields(record, tasks[0], ("instruction", "input", "output"))] if tasks else []
    return [*first, *map(dataclasses.asdict, tasks[1:])]


def _further(results: Sequence[Sequence[Instruction]]) -> list[Instruction]:
    return [task for result in results for task in result[1:]]


def _with_fields(part: dict[str, Any], task: Instruction, fields: Iterable[str]) -> dict[str, Any]:
    """The part with a task's texts; a field that was missing or null stays so where it is empty."""
    texts = {field: getattr(task, field) for field in fields}
    return {**part, **{field: text for field, text in texts.items() if text or part.get(field) is not None}}


def _rebuilt_chat(record: dict[str, Any], tasks: Sequence[Instruction]) -> dict[str, Any]:
    texts = iter([text for task in tasks for text in (task.instruction, task.output)])
    messages = [
        message if message["role"] == "system" else {**message, "content": next(texts)}
        for message in record["messages"]
    ]
    return {**record, "messages": messages}


def _new_chat(task: Instruction) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": task.question}, {"role": "assistant", "content": task.output}]}


def _new_task(task: Instruction) -> dict[str, Any]:
    return {"instruction": task.instruction, "instances": [{"input": task.input, "output": task.output}]}
