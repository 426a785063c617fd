"""How fast batches come from a packed dataset, with nothing else to do: reading, shuffling, decoding, stacking.

python tools/bench_loader.py --data=DIR [--batch_rows=8] [--seconds=10] [--rounds=3]

`DIR` is what `prepare` wrote. The stream is the one a training run reads, on the threads that it has there; counted are
all places of the rows, and those that hold a token. A GPU that trains 11,000 tokens a second needs as many of these.
"""

import statistics
import time

from alpaca_jax.support.program import Flags, run_program


def main() -> int | None:
    """Parses the flags, reads, and says how fast it went."""
    flags = Flags(prog="python tools/bench_loader.py", description=__doc__)
    flags.add_argument("--data", metavar="DIR", required=True, help="packed dataset")
    flags.add_argument("--batch_rows", metavar="N", type=int, default=8, help="rows in a batch (default 8)")
    flags.add_argument("--seconds", metavar="S", type=float, default=10.0, help="of each round (default 10)")
    flags.add_argument("--rounds", metavar="N", type=int, default=3, help="how many, each in another order (default 3)")
    values = flags.parse()

    from alpaca_jax.data.batches import TrainingBatches
    from alpaca_jax.data.packed_dataset import open_packed_dataset

    dataset = open_packed_dataset(values.data)
    rates, real_rates = [], []
    for seed in range(values.rounds):
        stream = TrainingBatches(dataset, values.batch_rows, seed).iterate()
        next(stream)  # the files are opened by now
        places = tokens = 0
        start = time.perf_counter()
        while time.perf_counter() - start < values.seconds:
            batch = next(stream)
            places += batch["tokens"].size
            tokens += int((batch["segment_ids"] > 0).sum())
        seconds = time.perf_counter() - start
        stream.close()
        rates.append(places / seconds)
        real_rates.append(tokens / seconds)
        print(f"round {seed}: {rates[-1] / 1e6:.1f} M places/s, {real_rates[-1] / 1e6:.1f} M tokens/s", flush=True)
    rate, real_rate = statistics.median(rates), statistics.median(real_rates)
    print(
        f"rows of {dataset.seq_len}, batches of {values.batch_rows}: median {rate / 1e6:.1f} M places/s, "
        f"{real_rate / 1e6:.1f} M tokens/s: {real_rate / 11_000:,.0f} times 11,000"
    )
    return 0


if __name__ == "__main__":
    run_program(main)
