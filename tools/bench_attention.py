"""Checks every attention kernel that the device at hand can run, and times it forward and backward.

python tools/bench_attention.py [--shapes=8x2048x32x32x128,…] [--rounds=7] [--seconds=0.2] [--json]

A shape is rows × positions × heads × key-value heads × head dimension, in bfloat16. Rows hold segments of Alpaca's mean
length, 128, and end in padding. Kernels take turns, so that a chip that grows warm slows all of them; the figures are
medians. Useful FLOPs are 12 (4 forward, 8 backward) for each pair of a token and one that it sees and each number of a
head. The error is the largest of a token against the reference, as a share of its vector.
"""

import dataclasses
import statistics
import time
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

_SHAPES = "8x2048x32x32x128,32x512x32x32x128,4x8192x32x32x128,8x2048x32x8x128,32x512x32x8x128"
_MEAN_SEGMENT = 128


def main() -> int | None:
    """Parses the flags, checks, times, prints a table."""
    flags = Flags(prog="python tools/bench_attention.py", description=__doc__)
    flags.add_argument("--shapes", metavar="SHAPES", default=_SHAPES, help=f"separated by commas (default {_SHAPES})")
    flags.add_argument("--rounds", metavar="N", type=int, default=7, help="turns of each kernel (default 7)")
    flags.add_argument("--seconds", metavar="S", type=float, default=0.2, help="of each turn (default 0.2)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    values = flags.parse()
    shapes = [_parse(shape) for shape in values.shapes.split(",")]

    import jax
    from rich.table import Table

    from alpaca_jax.support.progress import console

    table = Table("shape", "kernel", "error", "ms", "useful TFLOP/s", "remark", box=None, pad_edge=False)
    results = []
    for shape in shapes:
        for line in _measure(shape, values.rounds, values.seconds):
            results.append(line)
            cells = (
                f"{line[key]:.4g}" if line[key] is not None else "–" for key in ("error", "milliseconds", "tflops")
            )
            table.add_row(line["shape"], line["kernel"], *cells, line["remark"])
    console.print(table, markup=False)
    if values.json:
        print_json({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "results": results})
    return 0


def _parse(shape: str) -> tuple[int, ...]:
    try:
        rows, length, heads, kv_heads, head_dim = map(int, shape.split("x"))
    except ValueError:
        raise UserError(
            "--shapes",
            expected="ROWSxPOSITIONSxHEADSxKEY_VALUE_HEADSxHEAD_DIMENSION",
            found=shape,
            remedy="correct it",
        ) from None
    return rows, length, heads, kv_heads, head_dim


def _measure(shape: tuple[int, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A line for each kernel: its error and median time, or why it has none."""
    import numpy as np

    from alpaca_jax.model.attention_choice import KERNELS, Need, choose_attention
    from alpaca_jax.model.attention_parity import check_attention
    from alpaca_jax.model.presets import preset
    from alpaca_jax.parallel.mesh import make_mesh

    rows, length, heads, kv_heads, head_dim = shape
    segments = _segments(rows, length)
    model = dataclasses.replace(preset("llama_7b"), num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
    need = Need(model, length, "bfloat16", int(segments.max()))
    mesh = make_mesh({"data": -1})
    lines: list[dict[str, Any]] = []
    steps: dict[str, Any] = {}
    for name in KERNELS:
        line: dict[str, Any] = {"shape": "x".join(map(str, shape)), "kernel": name, "remark": ""}
        lines.append(line | {"error": None, "milliseconds": None, "tflops": None})
        try:
            choice = choose_attention(name, mesh, need)
            lines[-1]["error"] = check_attention(choice)
        except UserError as error:
            lines[-1]["remark"] = str(error)
        else:
            steps[name] = _step(choice.kernel, shape, segments)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(_time(step, seconds))
    pairs = sum(n * (n + 1) / 2 for row in segments for n in np.unique(row[row > 0], return_counts=True)[1])
    for line in lines:
        if line["kernel"] in times:
            median = statistics.median(times[line["kernel"]])
            line["milliseconds"] = 1e3 * median
            line["tflops"] = 12 * pairs * heads * head_dim / median / 1e12
    return lines


def _segments(rows: int, length: int) -> Any:
    """Segment ids of rows that hold segments of random lengths around the mean, and some padding."""
    import numpy as np

    random = np.random.default_rng(0)
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        filled = length - int(random.integers(0, length // 50 + 1))
        lengths = random.integers(_MEAN_SEGMENT // 4, _MEAN_SEGMENT * 7 // 4, length)
        row[:filled] = 1 + np.searchsorted(np.cumsum(lengths), np.arange(filled), "right")
    return ids


def _step(kernel: Any, shape: tuple[int, ...], segments: Any) -> Any:
    """A call that computes values and gradients on the first device, compiled and run once."""
    import jax
    import jax.numpy as jnp

    from alpaca_jax.model.attention_kernels import attention_over

    rows, length, heads, kv_heads, head_dim = shape
    keys = jax.random.split(jax.random.key(0), 4)
    numbers = [
        jax.random.normal(key, (rows, length, number, head_dim), jnp.bfloat16)
        for key, number in zip(keys, (heads, kv_heads, kv_heads, heads), strict=True)
    ]

    @jax.jit
    def run(q: Any, k: Any, v: Any, gradient: Any, ids: Any) -> Any:
        values, backward = jax.vjp(attention_over(kernel, ids, None), q, k, v)
        return values, backward(gradient)

    def step() -> Any:
        return run(*numbers, segments)

    jax.block_until_ready(step())
    return step


def _time(step: Any, seconds: float) -> float:
    """Seconds of one call, of as many as fill the time."""
    import jax

    calls, begun = 0, time.perf_counter()
    while not calls or time.perf_counter() - begun < seconds:
        # A few at once, so that the device does not wait for the host between them.
        jax.block_until_ready([step() for _ in range(4)])
        calls += 4
    return (time.perf_counter() - begun) / calls


if __name__ == "__main__":
    run_program(main)
