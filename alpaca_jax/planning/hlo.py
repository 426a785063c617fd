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

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "s4": 1, "u4": 1, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_REFERENCE = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
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
    """A collective of one device: what kind, among how many devices, bytes of its larger side, times a step."""

    kind: str
    devices: int
    bytes: int
    times: float

    def sent(self) -> float:
        """Bytes that a device sends in a step, in the ring form of each collective."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.bytes * self.times


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
        """Every collective; those that a compiler has cut into pieces of one channel are counted once."""
        seen: dict[str, Collective] = {}
        for instruction, times in self._walk(self._entry, 1.0, into_fusions=True):
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            home, devices = self._home(instruction), _group_size(instruction.rest)
            size = sum(_bytes(home[name].shape, everywhere=True) for name in instruction.operands)
            if kind == "all-gather":
                size *= devices
            if devices > 1 or kind == "collective-permute":
                seen[channel[1] if channel else instruction.name] = Collective(kind, max(devices, 2), size, times)
        return list(seen.values())

    def moved(self) -> float:
        """Bytes that kernels without a matrix product read from and write to the device's memory in a step.

        A matrix product of the sizes that matter here waits for its arithmetic, not for its memory.
        """
        return sum(
            times * self._kernel_bytes(instruction)
            for instruction, times in self._walk(self._entry, 1.0, into_fusions=False)
        )

    def carried(self) -> float:
        """Bytes that go from the device to the host's memory, which XLA marks with S(5), and back from there."""
        total = 0.0
        for instruction, times in self._walk(self._entry, 1.0, into_fusions=True):
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

    def _walk(self, computation: str, times: float, into_fusions: bool) -> Iterator[tuple[Instruction, float]]:
        for instruction in self._computations.get(computation, {}).values():
            yield instruction, times
            if instruction.opcode.startswith("fusion") and not into_fusions:
                continue
            if instruction.opcode in ("reduce", "sort", "scatter", "select-and-scatter", "reduce-window", "map"):
                continue
            inner = times * self._trips(instruction) if instruction.opcode == "while" else times
            for called in instruction.called():
                yield from self._walk(called, inner, into_fusions)

    def _trips(self, loop: Instruction) -> float:
        """How often a loop runs: as the compiler notes it, or the number that its condition compares with."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
        numbers = [
            int(line.arguments)
            for line, _ in self._walk(condition[1] if condition else "", 1.0, into_fusions=True)
            if line.opcode == "constant" and line.shape.startswith("s32[]") and line.arguments.isdigit()
        ]
        return max(numbers, default=self._open_loops) or self._open_loops

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


def _group_size(rest: str) -> int:
    """How many devices take part, in any of the three ways in which XLA writes it."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    return 1
