"""Logits equal transformers', both ways: its models brought in as users bring them, ours taken out and loaded there.

Random small models of all architectures and scalings; positions up to 4,096. The tolerance is not to be loosened.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.exporter import export_checkpoint
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import Definition, define

_TOLERANCE = 1e-4
_LENGTH = 4096
_SEED = 2  # what its draws cover: see `test_the_cases_above_cover_what_they_are_to_cover`
_SINGLE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

_CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
_SCALINGS = ("default", "linear", "llama3", "yarn")


@pytest.mark.parametrize("scaling", _SCALINGS)
@pytest.mark.parametrize("architecture", _CONFIGS)
def test_logits_equal_transformers_in_both_directions(architecture: str, scaling: str, tmp_path: Path) -> None:
    seed, rng, config = _case(architecture, scaling)
    theirs = _random_model(config, seed)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if rng.integers(2) else "1GB")
    _write_tokenizer(tmp_path / "theirs")
    folder = import_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    tokens_1L = rng.integers(folder.model.vocab_size, size=(1, _LENGTH))
    definition = define(folder.model)
    logits = _compiled(definition, tokens_1L)
    _assert_equal(logits(_restore(folder, definition)), _their_logits(theirs, tokens_1L))

    parameters = _random_parameters(definition, seed)
    _save(parameters, folder.model, tmp_path)
    export_checkpoint(tmp_path / "random", tmp_path / "exported")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", attn_implementation="eager")
    assert loaded.dtype == torch.float32
    _assert_equal(logits(parameters), _their_logits(loaded, tokens_1L))


@pytest.mark.parametrize(
    ("change", "architecture"),
    [
        ({"hidden_size": 20, "num_heads": 6}, "MistralForCausalLM"),  # which transformers' LLaMA does not allow
        ({"sliding_window": 7}, "MistralForCausalLM"),
        ({"qkv_bias": True, "sliding_window": 7}, "Qwen2ForCausalLM"),
        ({"qkv_bias": True, "output_bias": True}, "LlamaForCausalLM"),
        ({"qk_norm": True, "qkv_bias": True, "output_bias": True, "sliding_window": 7}, "Qwen3ForCausalLM"),
    ],
)
def test_a_model_is_exported_as_what_has_its_features(change: dict, architecture: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 24, "num_heads": 4} | change
    config = ModelConfig(
        **sizes,
        vocab_size=259,
        intermediate_size=40,
        num_layers=2,
        num_kv_heads=2,
        head_dim=10,
        max_position_embeddings=64,
    )
    definition = define(config)
    parameters = _random_parameters(definition, seed=3)
    _save(parameters, config, tmp_path)
    export_checkpoint(tmp_path / "random", tmp_path / "exported")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", attn_implementation="eager")
    assert type(loaded).__name__ == architecture
    tokens_BL = np.random.default_rng(0).integers(config.vocab_size, size=(3, 40))
    _assert_equal(_compiled(definition, tokens_BL)(parameters), _their_logits(loaded, tokens_BL))


def test_the_cases_above_cover_what_they_are_to_cover() -> None:
    for architecture in _CONFIGS:
        configs = [_case(architecture, scaling)[2] for scaling in _SCALINGS]
        models = [read_model_config(config.to_dict(), "config") for config in configs]
        assert {model.tied_embeddings for model in models} == {False, True}
        assert any(model.num_layers > 1 for model in models)
        assert any(model.num_kv_heads < model.num_heads for model in models)
        assert all(model.num_heads * model.head_dim != model.hidden_size for model in models)
        assert any(model.vocab_size % 64 for model in models)
        if architecture != "llama":
            assert {model.sliding_window is None for model in models} == {False, True}
            assert any(model.hidden_size % model.num_heads for model in models)
        if architecture in ("llama", "qwen3"):
            assert {model.output_bias for model in models} == {False, True}
        if architecture == "llama":
            assert {model.mlp_bias for model in models} == {False, True}


def _case(architecture: str, scaling: str) -> tuple[int, np.random.Generator, transformers.PreTrainedConfig]:
    """The seed of a case, a generator that has drawn its configuration, and that."""
    seed = zlib.crc32(f"{architecture} {scaling} {_SEED}".encode())
    rng = np.random.default_rng(seed)
    return seed, rng, _draw(rng, architecture, scaling)


def _draw(rng: np.random.Generator, architecture: str, scaling: str) -> transformers.PreTrainedConfig:
    """A random small configuration; widths of heads are even, and no multiple of anything in particular."""
    kv_heads = int(rng.integers(1, 4))
    heads = kv_heads * (int(rng.integers(1, 4)) if kv_heads == 1 else 1 + int(kv_heads == 2 and rng.integers(2)))
    layers = 1 + int(rng.integers(4 // heads))  # attention over 4,096 positions takes a second for four heads
    sizes: dict[str, Any] = {
        "vocab_size": int(rng.integers(258, 400)),
        # transformers' LLaMA wants a multiple of the heads; no other does.
        "hidden_size": heads * int(rng.integers(5, 12)) if architecture == "llama" else int(rng.integers(20, 60)),
        "intermediate_size": int(rng.integers(20, 120)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * int(rng.integers(3, 17)),
        "max_position_embeddings": _LENGTH,
        "rms_norm_eps": float(10 ** rng.uniform(-6, -2)),
        "tie_word_embeddings": bool(rng.integers(2)),
        "rope_parameters": _draw_rope(rng, scaling),
    }
    if architecture == "llama":
        sizes |= {"attention_bias": bool(rng.integers(2)), "mlp_bias": bool(rng.integers(2))}
    if architecture == "qwen3":
        sizes |= {"attention_bias": bool(rng.integers(2))}
    window = int(rng.integers(1, 3000)) if rng.integers(4) else None
    if architecture == "mistral":
        sizes |= {"sliding_window": window}
    if architecture.startswith("qwen"):
        # A window that is given and not switched on is none.
        sizes |= {
            "sliding_window": window,
            "use_sliding_window": bool(rng.integers(4)),
            "max_window_layers": int(rng.choice([0, 0, layers])),
        }
    return _CONFIGS[architecture](**sizes, attn_implementation="eager", pad_token_id=None)


def _draw_rope(rng: np.random.Generator, scaling: str) -> dict[str, Any]:
    theta = {"rope_type": scaling, "rope_theta": float(10 ** rng.uniform(2, 6))}
    factor, original = float(rng.uniform(1.5, 40)), int(rng.integers(64, _LENGTH))
    if scaling == "linear":
        return theta | {"factor": factor}
    if scaling == "llama3":
        low = float(rng.uniform(0.5, 2))
        high = low * float(rng.uniform(1.5, 5))
        bounds = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
        return theta | bounds | {"factor": factor}
    if scaling == "yarn":
        optional = {
            "attention_factor": float(rng.uniform(0.8, 1.5)),
            "beta_fast": float(rng.uniform(16, 40)),
            "beta_slow": float(rng.uniform(0.5, 2)),
            "mscale": 0.7,
            "mscale_all_dim": float(rng.uniform(0.2, 1)),
            "truncate": False,
        }
        chosen = {key: value for key, value in optional.items() if rng.integers(2)}
        return theta | chosen | {"factor": factor, "original_max_position_embeddings": original}
    return theta


def _random_model(config: transformers.PreTrainedConfig, seed: int) -> transformers.PreTrainedModel:
    """A model whose every parameter, norms and biases included, is random, with logits about as large as real ones."""
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            elif parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return model


def _random_parameters(definition: Definition, seed: int) -> Any:
    """Our own, likewise."""
    rng = np.random.default_rng(seed)

    def randomise(path: Any, shaped: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, shaped.shape).astype(np.float32)
        scale = 0.5 if path[-1].key.endswith("bias") else definition.config.hidden_size**-0.5
        return (rng.standard_normal(shaped.shape) * scale).astype(np.float32)

    return jax.tree_util.tree_map_with_path(randomise, definition.shapes)


def _save(parameters: Any, config: ModelConfig, tmp_path: Path) -> None:
    """As a run of the trainer leaves them."""
    _write_tokenizer(tmp_path / "tokenizer")
    with Store(tmp_path / "random") as store:
        store.save(0, parameters)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    CheckpointFolder.create(tmp_path / "random", config, tokenizer, provenance={}, template=None)


def _write_tokenizer(folder: Path) -> None:
    """256 bytes, a beginning and an end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({byte: id for id, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _restore(folder: CheckpointFolder, definition: Definition) -> Any:
    with Store(folder.path) as store:
        places = jax.tree.map(lambda _: _SINGLE_DEVICE, definition.shapes)
        return store.restore_parameters(abstract_parameters(definition.shapes, places, jnp.float32))


def _compiled(definition: Definition, tokens_BL: np.ndarray) -> Callable[[Any], jax.Array]:
    """Parameters to the logits of these tokens."""

    def logits(parameters: Any) -> jax.Array:
        bound = definition.bind(parameters)
        positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
        return bound.logits(bound(jnp.asarray(tokens_BL), positions_BL, jnp.ones(tokens_BL.shape, jnp.int32)))

    return jax.jit(logits)


def _their_logits(model: transformers.PreTrainedModel, tokens_BL: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BL)).logits.numpy()


def _assert_equal(ours_BLV: Any, theirs_BLV: np.ndarray) -> None:
    assert theirs_BLV.std() > 0.3, "the logits are too small for the tolerance to mean anything"
    ours_BLV, vocab_size = np.asarray(ours_BLV), theirs_BLV.shape[-1]
    assert np.abs(ours_BLV[..., :vocab_size] - theirs_BLV).max() < _TOLERANCE
    assert (ours_BLV[..., vocab_size:] == -np.inf).all()
