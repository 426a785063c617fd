"""Tokens a second of `generate`, side by side with transformers' where that is installed.

python tools/bench_generate.py --checkpoint=DIR [--batches=1,8] [--new_tokens=64] [--rounds=5] [--ours=float32,int8]
    [--theirs=float32,bfloat16] [--prompt_tokens=64] [--input=FILE [--records=64]] [--json]

Each model answers the same prompts, greedily; they take turns, so that whatever else the machine does slows all of
them. Figures are medians of the turns.

Without --input, prompts have `--prompt_tokens` tokens, and a turn makes `--new_tokens` tokens a prompt, no fewer; the
time of the prompt and of the first of them, taken from a turn of one token, is left out, so that what is told is
decoding alone. Processor time, summed over the cores, tells what a step costs where others use the machine too. What
ours holds are all arrays that came with it; what it needs are its weights and its cache. On an accelerator transformers
is left out, and the bytes that a step must read (weights and cache) are set against the memory's bandwidth.

With --input, the prompts are instructions of a file, drawn by chance, and each answer is made as long as the one that
stands there: what counts are the tokens of these answers and the time until the last is there, prompts included.
transformers takes them batch by batch, padded on the left, and works on a batch until its longest answer is done; ours
gives a slot that has become free to the next.
"""

import dataclasses
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

Work = list[tuple[list[int], int]]  # prompts, and how many tokens are wanted for each


@dataclasses.dataclass
class _Model:
    """Whoever takes a turn.

    Attributes:
      step_bytes: what one step reads.
      needed_bytes: of weights and cache.
      held_bytes: of all arrays that there are more than before it was made.
      turns: seconds of a step, or of all work; and seconds of the processor's.
    """

    name: str
    dtype: str
    answer: Callable[[Work], None]
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
    flags.add_argument("--prompt_tokens", type=int, default=64, metavar="N", help="(default: %(default)s)")
    flags.add_argument("--input", metavar="FILE", help="instructions and answers, as for `prepare`")
    flags.add_argument("--records", type=int, default=64, metavar="N", help="of --input (default: %(default)s)")
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    flags.add_argument("--ours", default="float32,int8", metavar="TYPE,…", help="(default: %(default)s)")
    flags.add_argument("--theirs", default="float32,bfloat16", metavar="TYPE,…", help="(default: %(default)s)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    values = flags.parse()
    if values.new_tokens < 2:
        raise UserError(
            "--new_tokens",
            expected="at least 2",
            found=f"{values.new_tokens}",
            remedy="add one: the first is not told",
        )

    import jax

    cpu = jax.default_backend() == "cpu"
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in map(int, values.batches.split(",")):
            one_step = _prompts(batch, values.prompt_tokens, values.new_tokens)
            work = _records(values.checkpoint, values.input, values.records) if values.input else one_step
            models = [_ours(values.checkpoint, dtype, work, batch) for dtype in values.ours.split(",")]
            if cpu and values.theirs:
                models += [_theirs(values.checkpoint, Path(folder), dtype, batch) for dtype in values.theirs.split(",")]
            if values.input:
                for model in models:
                    model.step_bytes = None  # no turn is a step
                _take_turns_at_all(models, values.rounds, work)
                tokens = sum(count for _, count in work)
            else:
                _take_turns_at_steps(models, values.rounds, work)
                tokens = batch
            results += [_result(model, batch, tokens) for model in models]
            del models
            gc.collect()
    _print(results, "s in all" if values.input else "ms a step", 1 if values.input else 1000)
    if values.json:
        print_json({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "results": results})
    return 0


def _print(results: list[dict[str, Any]], wall: str, unit: int) -> None:
    from rich.table import Table

    from alpaca_jax.support.progress import console

    heads = ("batch", "who", "type", "tokens/s", wall, "processor", "of the bandwidth", "holds / needs MiB")
    table = Table(*heads, box=None, pad_edge=False)
    for line in results:
        share = "–" if line["bandwidth_share"] is None else f"{line['bandwidth_share']:.0%}"
        held, needed = line["held_bytes"], line["needed_bytes"]
        memory = "–" if held is None else f"{held / 2**20:,.1f} / {needed / 2**20:,.1f}"
        times = (f"{line[name] * unit:.2f}" for name in ("seconds", "processor_seconds"))
        cells = (f"{line['tokens_per_second']:.1f}", *times, share, memory)
        table.add_row(str(line["batch"]), line["who"], line["dtype"], *cells)
    console.print(table, markup=False)


def _take_turns_at_steps(models: list[_Model], rounds: int, work: Work) -> None:
    """Of each turn, what a step takes: the time of all steps but the first, over their number."""
    first = [(ids, 1) for ids, _ in work]
    steps = work[0][1] - 1
    for model in models:  # compiles, and touches all memory
        model.answer(first)
        model.answer(work)
    for _ in range(rounds):
        for model in models:
            one, all_of_them = _seconds(model, first), _seconds(model, work)
            wall, processor = ((all_ - first) / steps for first, all_ in zip(one, all_of_them, strict=True))
            model.turns.append((wall, processor))


def _take_turns_at_all(models: list[_Model], rounds: int, work: Work) -> None:
    for model in models:
        model.answer(work)
    for _ in range(rounds):
        for model in models:
            model.turns.append(_seconds(model, work))


def _seconds(model: _Model, work: Work) -> tuple[float, float]:
    started, used = time.perf_counter(), time.process_time()
    model.answer(work)
    return time.perf_counter() - started, time.process_time() - used


def _result(model: _Model, batch: int, tokens: int) -> dict[str, Any]:
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
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "processor_seconds": processor,
        "turns_seconds": [wall for wall, _ in model.turns],
        "step_bytes": model.step_bytes,
        "bandwidth_share": share,
        "needed_bytes": model.needed_bytes,
        "held_bytes": model.held_bytes,
    }


def _prompts(batch: int, length: int, new_tokens: int) -> Work:
    return [([1000 + 97 * row + place for place in range(length)], new_tokens) for row in range(batch)]


def _records(checkpoint: str, path: str, count: int) -> Work:
    """Instructions of a file drawn by chance, and how many tokens their answers there have, the end token included."""
    from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
    from alpaca_jax.data.examples import encode_prompt
    from alpaca_jax.data.instructions import Instruction, read_records

    folder = CheckpointFolder.open(checkpoint)
    tokenizer, template = folder.tokenizer(), template_to_use(folder, None)
    records = [each.record for each in read_records(path) if isinstance(each.record, Instruction)]
    if count > len(records):
        raise UserError(
            "--records", expected=f"at most {len(records)}", found=f"{count}", remedy="that is all there are"
        )
    drawn = random.Random(0).sample(records, count)
    return [
        (encode_prompt(record, tokenizer, template), len(tokenizer.encode_prompt(record.output)) + 1)
        for record in drawn
    ]


def _ours(checkpoint: str, dtype: str, work: Work, batch: int) -> _Model:
    import jax

    from alpaca_jax.generation.load import load_engine
    from alpaca_jax.generation.settings import Sampling

    before = _array_bytes(jax.live_arrays())
    engine = load_engine(checkpoint, dtype, slots=batch)
    engine.ends = frozenset()  # as many tokens as were asked for, whatever they are
    weights = _array_bytes(jax.tree.leaves(engine.parameters))

    def answer(work: Work) -> None:
        for ids, count in work:
            engine.submit(ids, Sampling(temperature=0.0, max_new_tokens=count), lambda piece: None)
        while engine.step():
            pass

    answer(work[:batch])  # makes the cache
    held = _array_bytes(jax.live_arrays()) - before
    cache = engine.cache_bytes
    # Of an embedding that is not the head as well, a step reads a row a prompt.
    tied = engine.definition.config.tied_embeddings
    unread = 0 if tied else _array_bytes(jax.tree.leaves(engine.parameters["embedding"]))
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

    def answer(work: Work) -> None:
        for start in range(0, len(work), batch):
            some = work[start : start + batch]
            length, longest = max(len(ids) for ids, _ in some), max(count for _, count in some)
            with torch.inference_mode():
                model.generate(
                    torch.tensor([[0] * (length - len(ids)) + ids for ids, _ in some]),
                    attention_mask=torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, _ in some]),
                    do_sample=False,
                    min_new_tokens=longest,
                    max_new_tokens=longest,
                    pad_token_id=0,
                )

    return _Model("transformers", dtype, answer)


if __name__ == "__main__":
    run_program(main)
