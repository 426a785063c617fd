"""Logits equal transformers' LlamaForCausalLM, for models that come the way that users bring them: a saved folder."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.model.definition import define

_TOLERANCE = 1e-4
_SINGLE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

# Vocabularies below are no multiples of 64, so that ours are padded, except one.
_CASES = {
    "grouped_heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 301},
    "wide_heads_tied": {
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "tie_word_embeddings": True,
        "vocab_size": 270,
    },
    "narrow_heads_large_theta": {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "vocab_size": 320,
    },
    "large_eps": {"num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-2, "vocab_size": 299},
}


@pytest.mark.parametrize("case", _CASES)
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    theirs = _random_llama(**_CASES[case])
    ours = _import(theirs, tmp_path)
    _assert_same_logits(theirs, ours, rows=3, length=70)


@pytest.mark.parametrize("seed", range(4))
def test_logits_of_a_random_configuration(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    kv_heads, group = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    heads = kv_heads * group
    theirs = _random_llama(
        seed=seed,
        hidden_size=heads * 2 * int(rng.integers(2, 9)),
        intermediate_size=int(rng.integers(20, 120)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=2 * int(rng.integers(2, 17)),
        vocab_size=int(rng.integers(258, 400)),
        tie_word_embeddings=bool(rng.integers(2)),
        rope_parameters={"rope_type": "default", "rope_theta": float(rng.uniform(100, 1e6))},
        rms_norm_eps=float(10 ** rng.uniform(-6, -3)),
    )
    _assert_same_logits(theirs, _import(theirs, tmp_path), rows=2, length=33)


def test_logits_at_long_positions_from_shards(tmp_path: Path) -> None:
    theirs = _random_llama(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, vocab_size=300)
    ours = _import(theirs, tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    _assert_same_logits(theirs, ours, rows=1, length=4096)


def _random_llama(seed: int = 0, **sizes: object) -> transformers.LlamaForCausalLM:
    """A model whose every parameter, norms included, is random, and whose logits are about as large as real ones."""
    defaults = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(defaults | sizes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return model


def _import(model: transformers.LlamaForCausalLM, tmp_path: Path, **options: object) -> CheckpointFolder:
    model.save_pretrained(tmp_path / "theirs", **options)
    _byte_tokenizer().save(str(tmp_path / "theirs" / "tokenizer.json"))
    return import_checkpoint(tmp_path / "theirs", tmp_path / "ours")


def _byte_tokenizer() -> tokenizers.Tokenizer:
    """256 bytes, a beginning and an end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({byte: id for id, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def _assert_same_logits(model: transformers.LlamaForCausalLM, folder: CheckpointFolder, rows: int, length: int) -> None:
    vocab_size = model.config.vocab_size
    tokens_BL = np.random.default_rng(1).integers(vocab_size, size=(rows, length))
    with torch.no_grad():
        theirs_BLV = model(torch.from_numpy(tokens_BL)).logits.numpy()
    assert theirs_BLV.std() > 0.3, "the logits are too small for the tolerance to mean anything"

    definition = define(folder.model)
    with Store(folder.path) as store:
        places = jax.tree.map(lambda _: _SINGLE_DEVICE, definition.shapes)
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, places, jnp.float32))

    @jax.jit
    def logits(parameters: object, tokens_BL: jax.Array) -> jax.Array:
        bound = definition.bind(parameters)
        positions_BL = jnp.broadcast_to(jnp.arange(length), (rows, length))
        return bound.logits(bound(tokens_BL, positions_BL, jnp.ones((rows, length), jnp.int32)))

    ours_BLV = np.asarray(logits(parameters, tokens_BL))
    assert np.abs(ours_BLV[..., :vocab_size] - theirs_BLV).max() < _TOLERANCE
    assert (ours_BLV[..., vocab_size:] == -np.inf).all()
