"""Tokens a second of `generate`, side by side with transformers' where that is installed.

python tools/bench_generate.py --checkpoint=DIR [--batches=1,8] [--new_tokens=64] [--rounds=5] [--ours=float32,int8]
    [--theirs=float32,bfloat16] [--json]

Each model answers the same prompts of 64 tokens, greedily; they take turns, so that whatever else the machine does
slows all of them. A turn makes `--new_tokens` tokens a prompt, no fewer; the time of the prompt and of the first of
them, taken from a turn of one token, is left out, so that what is told is decoding alone. Figures are medians of the
turns. Processor time, summed over the cores, tells what a step costs where others use the machine too. What ours holds
are all arrays that came with it; what it needs are its weights and its cache. On an accelerator transformers is left
out, and the bytes that a step must read (weights and cache) are set against the memory's bandwidth.
"""

import dataclasses
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax.support.program import Flags, print_json, run_program

_PROMPT = 64


@dataclasses.dataclass
class _Model:
    """Whoever takes a turn: `answer` makes so many tokens for each prompt.

    Attributes:
      step_bytes: what one step reads.
      needed_bytes: of weights and cache.
      held_bytes: of all arrays that there are more than before it was made.
      turns: seconds of a step, and seconds of the processor's.
    """

    name: str
    dtype: str
    answer: Callable[[int], None]
    step_bytes: int | None = None
    needed_bytes: int | None = None
    held_bytes: int | None = None
    turns: list[tuple[float, float]] = dataclasses.field(default_factory=list)


def main() -> int:
    """Parses the flags, lets the models take turns, prints a table."""
    flags = Flags(prog="python tools/bench_generate.py", description=__doc__)
    flags.add_argument("--checkpoint", required=True, metavar="DIR", help="as for `generate`")
    flags.add_argument("--batches", default="1,8", metavar="N,…", help="prompts at a time (default: %(default)s)")
    flags.add_argument("--new_tokens", type=int, default=64, metavar="N", help="(default: %(default)s)")
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    flags.add_argument("--ours", default="float32,int8", metavar="TYPE,…", help="(default: %(default)s)")
    flags.add_argument("--theirs", default="float32,bfloat16", metavar="TYPE,…", help="(default: %(default)s)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    values = flags.parse()

    import jax
    from rich.table import Table

    from alpaca_jax.support.progress import console

    cpu = jax.default_backend() == "cpu"
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in map(int, values.batches.split(",")):
            models = [_ours(values.checkpoint, dtype, batch) for dtype in values.ours.split(",")]
            if cpu and values.theirs:
                models += [_theirs(values.checkpoint, Path(folder), dtype, batch) for dtype in values.theirs.split(",")]
            _take_turns(models, values.rounds, values.new_tokens)
            results += [_result(model, batch, values.new_tokens) for model in models]
            del models
            gc.collect()
    heads = ("batch", "who", "type", "tokens/s", "ms a step", "processor ms", "of the bandwidth", "holds / needs MiB")
    table = Table(*heads, box=None, pad_edge=False)
    for line in results:
        share = "–" if line["bandwidth_share"] is None else f"{line['bandwidth_share']:.0%}"
        held, needed = line["held_bytes"], line["needed_bytes"]
        memory = "–" if held is None else f"{held / 2**20:,.1f} / {needed / 2**20:,.1f}"
        times = (f"{line[name]:.2f}" for name in ("milliseconds", "processor_milliseconds"))
        cells = (f"{line['tokens_per_second']:.1f}", *times, share, memory)
        table.add_row(str(line["batch"]), line["who"], line["dtype"], *cells)
    console.print(table, markup=False)
    if values.json:
        print_json({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "results": results})
    return 0


def _take_turns(models: list[_Model], rounds: int, new_tokens: int) -> None:
    for model in models:  # compiles, and touches all memory
        model.answer(1)
        model.answer(new_tokens)
    for _ in range(rounds):
        for model in models:
            first, whole = _seconds(model, 1), _seconds(model, new_tokens)
            wall, processor = ((both - one) / (new_tokens - 1) for one, both in zip(first, whole, strict=True))
            model.turns.append((wall, processor))


def _seconds(model: _Model, new_tokens: int) -> tuple[float, float]:
    started, used = time.perf_counter(), time.process_time()
    model.answer(new_tokens)
    return time.perf_counter() - started, time.process_time() - used


def _result(model: _Model, batch: int, new_tokens: int) -> dict[str, Any]:
    import jax

    from alpaca_jax.parallel.chips import CHIPS

    seconds, processor = (statistics.median(times) for times in zip(*model.turns, strict=True))
    kind = jax.devices()[0].device_kind
    bandwidth = next((chip.bandwidth for chip in CHIPS.values() if kind in chip.kinds), None)
    share = model.step_bytes / seconds / bandwidth / jax.device_count() if bandwidth and model.step_bytes else None
    return {
        "batch": batch,
        "who": model.name,
        "dtype": model.dtype,
        "tokens_per_second": batch / seconds,
        "milliseconds": seconds * 1000,
        "processor_milliseconds": processor * 1000,
        "turns_milliseconds": [wall * 1000 for wall, _ in model.turns],
        "step_bytes": model.step_bytes,
        "bandwidth_share": share,
        "needed_bytes": model.needed_bytes,
        "held_bytes": model.held_bytes,
    }


def _prompts(batch: int) -> list[list[int]]:
    return [[1000 + 97 * row + place for place in range(_PROMPT)] for row in range(batch)]


def _ours(checkpoint: str, dtype: str, batch: int) -> _Model:
    import jax

    from alpaca_jax.generation.load import load_engine
    from alpaca_jax.generation.settings import Sampling

    before = _array_bytes(jax.live_arrays())
    engine = load_engine(checkpoint, dtype, slots=batch)
    engine.ends = frozenset()  # as many tokens as were asked for, whatever they are
    config = engine.definition.config

    def answer(count: int) -> None:
        sampling = Sampling(temperature=0.0, max_new_tokens=count)
        for ids in _prompts(batch):
            engine.submit(ids, sampling, lambda piece: None)
        while engine.step():
            pass

    answer(1)  # makes the cache
    held = _array_bytes(jax.live_arrays()) - before
    weights = _array_bytes(jax.tree.leaves(engine.parameters))
    slots, itemsize = 256, engine.parameters["embedding"].dtype.itemsize
    cache = 2 * config.num_layers * batch * slots * config.num_kv_heads * config.head_dim * itemsize
    # Of an embedding that is not the head as well, a step reads a row a prompt.
    unread = 0 if config.tied_embeddings else _array_bytes(jax.tree.leaves(engine.parameters["embedding"]))
    return _Model("alpaca_jax", dtype, answer, weights - unread + cache, weights + cache, held)


def _array_bytes(arrays: list[Any]) -> int:
    return sum(array.nbytes for array in arrays)


def _theirs(checkpoint: str, folder: Path, dtype: str, batch: int) -> _Model:
    import torch
    import transformers

    from alpaca_jax.convert.exporter import export_checkpoint

    if not any(folder.iterdir()):
        export_checkpoint(checkpoint, folder / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor(_prompts(batch))

    def answer(count: int) -> None:
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
            )

    return _Model("transformers", dtype, answer)


if __name__ == "__main__":
    run_program(main)
