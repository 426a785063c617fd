"""Reads the text of a compiled program: which collectives it runs, how often, and what its other kernels move.

The text is XLA's (https://openxla.org/xla/operation_semantics); one line an instruction, grouped into computations that
call each other:

    %body.7 (p: (s32[], bf16[8,4096])) -> (s32[], bf16[8,4096]) {
      %all-gather.2 = bf16[4096,11008]{1,0} all-gather(%slice.1), channel_id=5, replica_groups=[1,8]<=[8], …
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from alpaca_jax.planning.groups import first_group

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "s4": 1, "u4": 1, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_REFERENCE = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_OWN_PARTS = ("all-to-all", "collective-permute", "ragged-all-to-all")
# Between TPU slices a collective is a message to the program's host, which says in the name of its kind what becomes
# of it, and in its target the slices.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_target="\{([^}]*)\}.*_xla_megascale_transfer_type="(\w+)"')
# What moves nothing: names for memory that is there, and the ends of what was begun before.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
_PRODUCTS = ("dot", "convolution")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: name, shape of the result, what it does, on what, all after that, and whether it is the result."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    arguments: str
    is_root: bool

    def called(self) -> list[str]:
        """The computations that it runs (a loop's condition left out)."""
        return [name for found in _CALLED.finditer(self.rest) for name in _REFERENCE.findall(found[1])]


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of one device: what kind, among how many devices, bytes of its larger side, times a step.

    Attributes:
      group: the devices of one of its groups, by their place in the mesh; empty where the program does not say.
      machines: how many machines or slices the group is spread over.
      links: the share of a chip's links to its neighbours that lead along the group.
    """

    kind: str
    devices: int
    bytes: int
    times: float
    group: tuple[int, ...] = ()
    machines: int = 1
    links: float = 1.0

    def sent(self) -> float:
        """Bytes that a device sends in a step, in the ring form of each collective."""
        return self._sent_among(self.devices) * self.times

    def sent_between(self) -> float:
        """Bytes of it that a device's share of the network between machines must carry in a step.

        What all devices of a machine want from elsewhere comes in once, each of them fetching a part that they then
        pass on among themselves, as NCCL's rings and trees do; of an exchange each fetches its own.
        """
        beside = 1.0 if self.kind in _OWN_PARTS else self.devices / self.machines
        return self._sent_among(self.machines) * self.times / beside if self.machines > 1 else 0.0

    def _sent_among(self, parties: int) -> float:
        share = (parties - 1) / parties
        return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share) * self.bytes


class Program:
    """A compiled program.

    Args:
      text: what `jax.stages.Compiled.as_text` gives.
      open_loops: how often a loop runs whose end is known only at run time.
    """

    def __init__(self, text: str, open_loops: float = 1.0):
        self._computations, self._entry = _parse(text)
        self._open_loops = open_loops

    def collectives(self) -> list[Collective]:
        """Every collective; pieces of one channel, into which a compiler may cut it within a loop, are counted once."""
        seen: dict[str, Collective] = {}
        for instruction, times, loop in self._walk(self._entry, 1.0, into_fusions=True):
            kind, slices = instruction.opcode.removesuffix("-start"), 1
            if kind == "send" and (message := _BETWEEN_SLICES.search(instruction.rest)):
                kind, slices = message[2].lower().replace("_", "-"), message[1].count(",") + 1
            if kind not in COLLECTIVES:
                continue
            channel, group = re.search(r"channel_id=(\d+)", instruction.rest), first_group(instruction.rest)
            home, devices = self._home(instruction), max(len(group), slices)
            size = sum(_bytes(home[name].shape, everywhere=True) for name in instruction.operands)
            if kind == "all-gather":
                size *= devices
            if kind == "all-reduce" and _keeps_a_part(home, instruction.name):
                kind = "reduce-scatter"
            if devices > 1:
                # Messages between slices have numbers of their own.
                key = f"{loop} {slices > 1} {channel[1] if channel else instruction.name}"
                seen[key] = Collective(kind, devices, size, times, group, slices)
        return list(seen.values())

    def moved(self) -> float:
        """Bytes that kernels without a matrix product read from and write to the device's memory in a step.

        A matrix product of the sizes that matter here waits for its arithmetic, not for its memory.
        """
        return sum(
            times * self._kernel_bytes(instruction)
            for instruction, times, _ in self._walk(self._entry, 1.0, into_fusions=False)
        )

    def carried(self) -> float:
        """Bytes that go from the device to the host's memory, which XLA marks with S(5), and back from there."""
        total = 0.0
        for instruction, times, _ in self._walk(self._entry, 1.0, into_fusions=True):
            if instruction.opcode not in ("dynamic-update-slice", "dynamic-slice"):
                continue
            home = self._home(instruction)
            if "S(5)" in home[instruction.operands[0]].shape:
                part = instruction if instruction.opcode == "dynamic-slice" else home[instruction.operands[1]]
                total += times * _bytes(part.shape, everywhere=True)
        return total

    def custom_calls(self) -> set[str]:
        """The names of the library kernels that it runs."""
        lines = (line for computation in self._computations.values() for line in computation.values())
        return {found[1] for line in lines if (found := re.search(r'custom_call_target="([^"]+)"', line.rest))}

    def _walk(
        self, computation: str, times: float, into_fusions: bool, loop: str = ""
    ) -> Iterator[tuple[Instruction, float, str]]:
        """Every instruction that runs, how often in a step, and the innermost loop that it runs in."""
        for instruction in self._computations.get(computation, {}).values():
            yield instruction, times, loop
            if instruction.opcode.startswith("fusion") and not into_fusions:
                continue
            if instruction.opcode in ("reduce", "sort", "scatter", "select-and-scatter", "reduce-window", "map"):
                continue
            inner, within = times, loop
            if instruction.opcode == "while":
                inner, within = times * self._trips(instruction), instruction.name
            for called in instruction.called():
                yield from self._walk(called, inner, into_fusions, within)

    def _trips(self, loop: Instruction) -> float:
        """How often a loop runs: as the compiler notes it, or the number that its condition compares with."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
        numbers = [
            int(line.arguments)
            for line, _, _ in self._walk(condition[1] if condition else "", 1.0, into_fusions=True)
            if line.opcode == "constant" and line.shape[1:].startswith("32[]") and line.arguments.isdigit()
        ]
        return max(numbers, default=0) / self._stride(loop, condition[1] if condition else "") or self._open_loops

    def _stride(self, loop: Instruction, condition: str) -> int:
        """By how much a turn of the loop raises the counter that its condition looks at; 1 where it does not show."""
        compared = next((line for line in self._computations.get(condition, {}).values() if line.is_root), None)
        counter = self._computations[condition].get(compared.operands[0]) if compared and compared.operands else None
        index = re.search(r"index=(\d+)", counter.rest) if counter else None
        body = next((self._computations[name] for name in loop.called() if name in self._computations), {})
        results = next((line.operands for line in body.values() if line.is_root), ())
        if index is None or int(index[1]) >= len(results):
            return 1
        raised, line = 0, body.get(results[int(index[1])])
        while line and line.opcode == "add":
            constants = [name for name in line.operands if body[name].opcode == "constant"]
            others = [name for name in line.operands if name not in constants]
            raised += sum(int(body[name].arguments) for name in constants)
            line = body[others[0]] if constants and others else None
        return max(raised, 1)

    def _kernel_bytes(self, instruction: Instruction) -> float:
        kind, computation = instruction.opcode, self._home(instruction)
        if kind in _FREE or kind in ("while", "call", "conditional", "custom-call") or kind in _PRODUCTS:
            return 0.0
        if (
            kind.endswith("-done")
            or kind.removesuffix("-start") in COLLECTIVES
            or kind in ("async-start", "copy-start")
        ):
            return 0.0
        if kind in ("fusion", "fusion-start"):
            return self._fusion_bytes(instruction, computation)
        if kind in ("dynamic-slice", "slice", "gather", "broadcast", "iota"):
            return 2.0 * _bytes(instruction.shape)
        if kind == "dynamic-update-slice":
            return 2.0 * _bytes(computation[instruction.operands[1]].shape)
        read = (_bytes(computation[name].shape) for name in instruction.operands if name in computation)
        return _bytes(instruction.shape) + sum(read)

    def _fusion_bytes(self, fusion: Instruction, home: dict[str, Instruction]) -> float:
        """What a fused kernel reads and writes: of an array that it only cuts a slice from, or puts one into, that."""
        inside = next((self._computations[name] for name in fusion.called() if name in self._computations), {})
        if any(line.opcode in _PRODUCTS for line in inside.values()):
            return 0.0
        parameters = {int(line.arguments): line.name for line in inside.values() if line.opcode == "parameter"}
        written = max((_bytes(line.shape) for line in inside.values() if line.is_root), default=0)
        read = 0
        for number, operand in enumerate(fusion.operands):
            size = _bytes(home[operand].shape) if operand in home else 0
            users = _users(inside, parameters.get(number, ""))
            if users and all(user.opcode in ("dynamic-slice", "slice") for user in users):
                size = sum(_bytes(user.shape) for user in users)
            elif users and users[0].opcode == "dynamic-update-slice" and _bytes(users[0].shape) == size:
                # It is what is written into, not what is written.
                written += _bytes(inside[users[0].operands[1]].shape) - size
                size = 0
            read += size
        return read + max(written, 0)

    def _home(self, instruction: Instruction) -> dict[str, Instruction]:
        return next(lines for lines in self._computations.values() if lines.get(instruction.name) is instruction)


def _keeps_a_part(lines: dict[str, Instruction], name: str) -> bool:
    """Whether this is how a TPU's compiler writes a reduce-scatter: a kernel that sums, and keeps a part of the sum."""
    return any(line.is_root and line.opcode == "dynamic-slice" and name in line.operands for line in lines.values())


def _users(lines: dict[str, Instruction], name: str) -> list[Instruction]:
    """The instructions that read a value, also under another name for the same memory."""
    users: list[Instruction] = []
    for line in lines.values():
        if name in line.operands:
            users += _users(lines, line.name) if line.opcode == "bitcast" else [line]
    return users


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif match := re.match(r"\s+(ROOT )?%([\w.\-]+) = ", line):
            instruction = _instruction(match[2], line[match.end() :], bool(match[1]))
            current[instruction.name] = instruction
    return computations, entry


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    shape_end = _closing(text, 0) if text.startswith("(") else text.index(" ", 0)
    shape, text = text[:shape_end], text[shape_end:].lstrip()
    opening = text.index("(")
    closing = _closing(text, opening)
    arguments = text[opening + 1 : closing - 1]
    return Instruction(
        name, shape, text[:opening], tuple(_REFERENCE.findall(arguments)), text[closing:], arguments, is_root
    )


def _closing(text: str, opening: int) -> int:
    """The place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _bytes(shape: str, everywhere: bool = False) -> int:
    """Bytes in the device's main memory, or everywhere: S(1) marks what stays on a TPU, S(5) what the host has."""
    total = 0
    for dtype, sizes, layout in _SHAPE.findall(shape):
        if everywhere or "S(" not in layout:
            total += _BYTES.get(dtype, 4) * math.prod(map(int, filter(None, sizes.split(","))))
    return total
