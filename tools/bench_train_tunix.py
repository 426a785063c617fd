"""Tunix as a contestant of `tools/bench_train.py`: its model, its trainer's compiled step.

Its trainer for fine-tuning refuses packed rows, and its step is compiled for one shape, so all examples are padded to
the longest of the run, and an update is always so many batches of so many rows, filled up with empty ones. It averages
the batches' means; the loss told here weighs them by their trained tokens, as everyone else's. Needs google-tunix.
"""

# These packages are in an environment of their own.
# mypy: disable-error-code="import-not-found,import-untyped"

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.sft import utils
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput

from tools.bench_train_worker import IGNORED, examples_of, padded, read_rows, run_worker


class Tunix:
    """See `bench_train_worker.Contestant`."""

    def __init__(self, job: dict[str, Any]):
        self._rows = read_rows(job["rows"])
        everything = [examples_of(self._rows, update) for update in range(len(self._rows["tokens"]))]
        most = max(map(len, everything))
        self._length = max(len(ids) for examples in everything for ids, _ in examples)
        self._batches = -(-most // job["batch"])
        self._batch = -(-most // self._batches)
        model = _load(Path(job["model"]), job["dtype"])
        values = job["optimizer"]
        optimiser = optax.chain(
            optax.clip_by_global_norm(values["clip_norm"]),
            optax.adamw(
                values["learning_rate"],
                values["b1"],
                values["b2"],
                values["eps"],
                weight_decay=values["weight_decay"],
            ),
        )
        configuration = TrainingConfig(eval_every_n_steps=1, gradient_accumulation_steps=self._batches)
        trainer = PeftTrainer(model, optimiser, configuration).with_gen_model_input_fn(_model_input)
        self._step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        self.facts = {
            "versions": {name: version(name) for name in ("google-tunix", "jax", "flax")},
            "weights": job["dtype"],
            "padded_to": self._length,
        }

    def update(self, number: int) -> float:
        """The trainer's step for each batch; the last of them changes the weights."""
        examples = examples_of(self._rows, number)
        losses, counts = [], []
        for batch in range(self._batches):
            some = examples[batch :: self._batches]
            empty = (np.zeros(0, np.int64), np.zeros(0, np.int64))
            tokens, labels, seen = padded([*some, *[empty] * (self._batch - len(some))], self._length)
            # It finds the tokens that are no padding by their mask, so the trained ones are told apart by a sign.
            mask = np.where(labels != IGNORED, 2, seen)
            loss, _, _ = self._step(TrainingInput(tokens.astype(np.int32), mask.astype(np.int32)))
            losses.append(loss)
            counts.append(int((labels != IGNORED).sum()))
        return float(np.dot(np.asarray(jax.device_get(losses)), counts) / sum(counts))

    def peak_bytes(self) -> int | None:
        """As the device counts it."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _model_input(batch: TrainingInput) -> dict[str, jax.Array]:
    seen = batch.input_mask > 0
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": batch.input_mask == 2,
        "positions": utils.build_positions_from_mask(seen),
        "attention_mask": utils.make_causal_attn_mask(seen),
    }


def _load(folder: Path, dtype: str) -> llama.Llama3:
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theta = sizes.get("rope_theta") or sizes["rope_parameters"]["rope_theta"]
    # Tunix 0.1.7 reads the configuration's base nowhere and turns by its function's default.
    llama.apply_rope = functools.partial(llama.apply_rope, rope_theta=theta)
    on_cpu = jax.default_backend() == "cpu"
    configuration = llama.ModelConfig(
        num_layers=sizes["num_hidden_layers"],
        vocab_size=sizes["vocab_size"],
        embed_dim=sizes["hidden_size"],
        hidden_dim=sizes["intermediate_size"],
        num_heads=sizes["num_attention_heads"],
        head_dim=sizes.get("head_dim") or sizes["hidden_size"] // sizes["num_attention_heads"],
        num_kv_heads=sizes["num_key_value_heads"],
        rope_theta=theta,
        norm_eps=sizes["rms_norm_eps"],
        weight_tying=sizes["tie_word_embeddings"],
        remat_config=llama.RematConfig.NONE if on_cpu else llama.RematConfig.DECODER,
    )
    return params.create_model_from_safe_tensors(str(folder), configuration, dtype=jnp.dtype(dtype))


if __name__ == "__main__":
    run_worker(Tunix)
