"""MaxText as a contestant of `tools/bench_train.py`: its trainer's own set-up and step, on our packed rows.

The rows are ours because MaxText's own packing, for other data pipelines, makes the same arrays; where the loss mask is
0 a target has segment 0, which is how MaxText leaves it out. Its attention is `dot_product`, which honours segments;
what the backward pass keeps is everything on a CPU, where memory is not short, and as MaxText has it elsewhere. The
weights are put into its parameters by the axes of each. Those of the queries carry attention's division by √head_dim in
MaxText, so that Adam, whose steps do not depend on a weight's size, moves them further: the first loss is everyone's,
later ones are its own. Needs maxtext with its extra `tpu`, whatever the device.
"""

# These packages are in an environment of their own.
# mypy: disable-error-code="import-not-found,import-untyped"

import json
import math
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import maxtext
import numpy as np
from flax import nnx
from flax.linen import logical_axis_rules
from maxtext.configs import pyconfig
from maxtext.trainers.pre_train.train import eval_step, train_step
from maxtext.utils import sharding, train_utils
from safetensors import safe_open

from tools.bench_train_worker import read_rows, run_worker


class MaxText:
    """See `bench_train_worker.Contestant`."""

    def __init__(self, job: dict[str, Any]):
        self._rows = read_rows(job["rows"])
        folder = Path(job["model"])
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._config = pyconfig.initialize(_arguments(job, sizes, self._rows["tokens"].shape))
        _, _, shardings, _, self._mesh, *_, state = train_utils.setup_train_loop(self._config, None)
        nnx.update(state.model, _parameters(folder, sizes, nnx.state(state.model, nnx.Param)))
        graph, self._state = nnx.split(state)
        places, shardings = sharding.maybe_update_params_sharding_with_opt(self._config, shardings)
        self._step, _ = train_utils.jit_train_and_eval_step(
            self._config, graph, self._mesh, self._state, shardings, train_step, eval_step, None, places
        )
        self.facts = {"versions": {name: version(name) for name in ("maxtext", "jax", "flax")}}

    def update(self, number: int) -> float:
        """Its step."""
        rows = {name: array[number].astype(np.int32) for name, array in self._rows.items()}
        batch = {
            "inputs": rows["tokens"],
            "inputs_position": rows["positions"],
            "inputs_segmentation": rows["segment_ids"],
            "targets": rows["targets"],
            "targets_position": rows["positions"],
            "targets_segmentation": rows["segment_ids"] * rows["loss_mask"],
        }
        with jax.set_mesh(self._mesh), logical_axis_rules(self._config.logical_axis_rules):
            batch = jax.device_put(batch, sharding.get_input_data_sharding(self._config, self._mesh))
            self._state, metrics = self._step(self._state, batch)
            jax.block_until_ready(self._state)
        return float(metrics["scalar"]["learning/loss"])

    def peak_bytes(self) -> int | None:
        """As the device counts it."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _arguments(job: dict[str, Any], sizes: dict[str, Any], shape: tuple[int, ...]) -> list[str]:
    on_cpu = jax.default_backend() == "cpu"
    optimiser = job["optimizer"]
    values = {
        "run_name": "bench_train",
        "base_output_directory": job["scratch"],
        "hardware": jax.default_backend(),
        "skip_jax_distributed_system": True,
        "dataset_type": "synthetic",
        "packing": True,
        "enable_checkpointing": False,
        "enable_goodput_recording": False,
        "enable_tensorboard": False,
        "log_config": False,
        "decoder_block": "llama2",
        "base_emb_dim": sizes["hidden_size"],
        "base_mlp_dim": sizes["intermediate_size"],
        "base_num_decoder_layers": sizes["num_hidden_layers"],
        "base_num_query_heads": sizes["num_attention_heads"],
        "base_num_kv_heads": sizes["num_key_value_heads"],
        "head_dim": _head_dim(sizes),
        "vocab_size": sizes["vocab_size"],
        "mlp_activations": "['silu','linear']",
        "logits_via_embedding": sizes["tie_word_embeddings"],
        "normalize_embedding_logits": False,
        "normalization_layer_epsilon": sizes["rms_norm_eps"],
        "rope_max_timescale": int(sizes.get("rope_theta") or sizes["rope_parameters"]["rope_theta"]),
        "enable_dropout": False,
        "attention": "dot_product",
        "remat_policy": "minimal_with_context" if on_cpu else "full",
        "dtype": job["dtype"],
        "weight_dtype": "float32",
        "max_target_length": shape[2],
        "per_device_batch_size": shape[1] // jax.device_count(),
        "steps": shape[0],
        "learning_rate": optimiser["learning_rate"],
        "learning_rate_final_fraction": 1.0,
        "warmup_steps_fraction": 0.0,
        "adam_b1": optimiser["b1"],
        "adam_b2": optimiser["b2"],
        "adam_eps": optimiser["eps"],
        "adam_weight_decay": optimiser["weight_decay"],
        "gradient_clipping_threshold": optimiser["clip_norm"],
    }
    base = os.path.join(os.path.dirname(maxtext.__file__), "configs", "base.yml")
    return ["", base, *(f"{name}={value}" for name, value in values.items())]


def _head_dim(sizes: dict[str, Any]) -> int:
    return sizes.get("head_dim") or sizes["hidden_size"] // sizes["num_attention_heads"]


# MaxText's parameter: the tensor of each layer. It keeps the layers on the second axis, and all matrices transposed.
_LAYERS = {
    ("mlp", "wi_0", "kernel"): "mlp.gate_proj",
    ("mlp", "wi_1", "kernel"): "mlp.up_proj",
    ("mlp", "wo", "kernel"): "mlp.down_proj",
    ("self_attention", "query", "kernel"): "self_attn.q_proj",
    ("self_attention", "key", "kernel"): "self_attn.k_proj",
    ("self_attention", "value", "kernel"): "self_attn.v_proj",
    ("self_attention", "out", "kernel"): "self_attn.o_proj",
    ("pre_self_attention_layer_norm", "scale"): "input_layernorm",
    ("post_self_attention_layer_norm", "scale"): "post_attention_layernorm",
}
_WHOLE = {
    ("token_embedder", "embedding"): "model.embed_tokens",
    ("decoder", "decoder_norm", "scale"): "model.norm",
    ("decoder", "logits_dense", "kernel"): "lm_head",
}


def _parameters(folder: Path, sizes: dict[str, Any], wanted: nnx.State) -> nnx.State:
    """The weights of a Hugging Face folder in the places of MaxText's."""
    files = [safe_open(path, "flax") for path in sorted(folder.glob("*.safetensors"))]
    holder = {name: file for file in files for name in file.keys()}  # noqa: SIM118  such a file is no dict

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(holder[f"{name}.weight"].get_tensor(f"{name}.weight"), np.float32)
        if name.endswith("q_proj"):
            array = array / math.sqrt(_head_dim(sizes))  # MaxText leaves out attention's own division
        return array.reshape(shape) if "embed" in name else array.T.reshape(shape)

    def value(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if path in _WHOLE:
            return tensor(_WHOLE[path], shape)
        name, layer_shape = _LAYERS[path[2:]], (shape[0], *shape[2:])
        layers = range(sizes["num_hidden_layers"])
        return np.stack([tensor(f"model.layers.{layer}.{name}", layer_shape) for layer in layers], axis=1)

    flat = nnx.to_flat_state(wanted)
    return nnx.from_flat_state(
        [
            (path, variable.replace(jax.device_put(value(path, variable.shape), variable.get_value().sharding)))
            for path, variable in flat
        ]
    )


if __name__ == "__main__":
    run_worker(MaxText)
