"""The project itself as a contestant of `tools/bench_train.py`: a run as `train` makes it, its compiled step timed."""

from pathlib import Path
from typing import Any

from tools.bench_train_worker import run_worker


class Ours:
    """See `bench_train_worker.Contestant`."""

    def __init__(self, job: dict[str, Any]):
        from alpaca_jax.parallel.compiler_options import set_environment
        from alpaca_jax.training.command_line import read_config

        set_environment()
        config = read_config(job["config"], job["changes"])

        import jax

        from alpaca_jax.training.run import prepare_run

        run = prepare_run(config, Path(job["scratch"]) / "run")  # holds the attention kernel against its definition
        self._mesh = run.mesh
        self._step = run.compile_step()
        self._state = run.start()
        self._batches = run.batches().iterate()
        self.facts = {
            "versions": {"jax": jax.__version__},
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "attention": run.attention.kernel.name,
            "dtype": config.model.compute_dtype,
        }

    def update(self, number: int) -> float:
        """Batches come in their order, as in training; `number` is that of the next."""
        from alpaca_jax.parallel.mesh import place_batch

        self._state, metrics = self._step(self._state, place_batch(self._mesh, next(self._batches)))
        loss = float(metrics["loss"])
        self._state.step.block_until_ready()
        return loss

    def peak_bytes(self) -> int | None:
        """As the devices count it."""
        from alpaca_jax.training.throughput import device_memory_gib

        peak = device_memory_gib()
        return None if peak is None else int(peak * 2**30)


if __name__ == "__main__":
    run_worker(Ours)
