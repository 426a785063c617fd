"""The LLaMA (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and its relatives as Flax NNX modules.

Mistral's sliding window (https://arxiv.org/abs/2310.06825), Qwen 2's biases (https://arxiv.org/abs/2407.10671) and
Qwen 3's norms of queries and keys (https://arxiv.org/abs/2505.09388) are there where `ModelConfig` says so.

Each parameter is declared once, with its shape, its logical axes and its scale. The layers are stacked along a first
axis and scanned, so that a model of any depth compiles as one layer does. Arithmetic runs in the type of the embedding
that is bound, to which each layer's parameters are brought when they are used; norms, rotations and softmax run in
float32.

B batch, L sequence length, D hidden size, F intermediate size, H heads, K key-value heads, Q head dimension,
V padded vocabulary, N layers, S cache slots.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from alpaca_jax.model.attention import cached_attention
from alpaca_jax.model.attention_kernels import REFERENCE, Attend, Kernel, attention_over
from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.products import product
from alpaca_jax.model.quantised import Quantised
from alpaca_jax.model.rematerialisation import rematerialise
from alpaca_jax.model.rope import Angles, apply_rope, rope_angles
from alpaca_jax.parallel.sharding import constrain, gather

# Rows of a quantised vocabulary that are widened together: few enough to stay in a processor's cache.
_VOCABULARY_PART = 1024


def _weight(rngs: nnx.Rngs, axes: tuple[str, ...], shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A matrix with normal entries of variance 1 / fan_in, so that its outputs are about as large as its inputs."""
    # `out_sharding` holds logical names here; the one table maps them (see `Definition.logical_axes`).
    return nnx.Param(jax.random.normal(rngs.params(), shape) * fan_in**-0.5, out_sharding=axes)


def _bias(axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape), out_sharding=axes)


def _use(parameter: nnx.Param, dtype: jnp.dtype) -> Array:
    """A parameter's numbers in a type, brought together for their use; inside the scan that is one layer's alone."""
    value = parameter.get_value()
    axes = parameter.get_metadata()["out_sharding"][-value.ndim :]
    return value.gathered(axes, dtype) if isinstance(value, Quantised) else gather(value, axes, dtype)


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple)


def _add(x: Array, bias: nnx.Param | None) -> Array:
    return x if bias is None else x + _use(bias, x.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) × scale (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones(size), out_sharding=("norm",))
        self.eps = eps

    def __call__(self, activations: Float[Array, "*leading D"]) -> Float[Array, "*leading D"]:
        """The activations, normalised along their last axis, in the type that came in."""
        x = activations.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x.astype(activations.dtype) * _use(self.scale, activations.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        D, H, K, Q = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        self.query = _weight(rngs, ("embed", "heads", "head_dim"), (D, H, Q), fan_in=D)
        self.key = _weight(rngs, ("embed", "kv_heads", "head_dim"), (D, K, Q), fan_in=D)
        self.value = _weight(rngs, ("embed", "kv_heads", "head_dim"), (D, K, Q), fan_in=D)
        self.output = _weight(rngs, ("heads", "head_dim", "embed"), (H, Q, D), fan_in=H * Q)
        self.query_bias = _bias(("heads", "head_dim"), (H, Q)) if config.qkv_bias else None
        self.key_bias = _bias(("kv_heads", "head_dim"), (K, Q)) if config.qkv_bias else None
        self.value_bias = _bias(("kv_heads", "head_dim"), (K, Q)) if config.qkv_bias else None
        self.output_bias = _bias(("bias",), (D,)) if config.output_bias else None
        self.query_norm = RMSNorm(Q, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(Q, config.norm_eps) if config.qk_norm else None

    def project(
        self, x_BLD: Float[Array, "B L D"], angles: Angles
    ) -> tuple[Float[Array, "B L H Q"], Float[Array, "B L K Q"], Float[Array, "B L K Q"]]:
        """Queries, keys and values; queries and keys normalised, where they are, and turned to their positions."""
        q = self._heads(x_BLD, self.query, self.query_bias)
        k = self._heads(x_BLD, self.key, self.key_bias)
        v = self._heads(x_BLD, self.value, self.value_bias)
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        return apply_rope(q, angles), apply_rope(k, angles), v

    def merge(self, heads_BLHQ: Float[Array, "B L H Q"]) -> Float[Array, "B L D"]:
        """The heads' outputs, mixed back into the hidden size."""
        return _add(product(heads_BLHQ, _use(self.output, heads_BLHQ.dtype), 2), self.output_bias)

    def _heads(self, x_BLD: Array, weight: nnx.Param, bias: nnx.Param | None) -> Array:
        x_BLHQ = _add(product(x_BLD, _use(weight, x_BLD.dtype)), bias)
        return constrain(x_BLHQ, "batch", "sequence", "activation_heads", "head_dim")


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        D, F = config.hidden_size, config.intermediate_size
        self.gate = _weight(rngs, ("embed", "mlp"), (D, F), fan_in=D)
        self.up = _weight(rngs, ("embed", "mlp"), (D, F), fan_in=D)
        self.down = _weight(rngs, ("mlp", "embed"), (F, D), fan_in=F)
        self.gate_bias = _bias(("mlp",), (F,)) if config.mlp_bias else None
        self.up_bias = _bias(("mlp",), (F,)) if config.mlp_bias else None
        self.down_bias = _bias(("bias",), (D,)) if config.mlp_bias else None

    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Two products up, one gated by the other, and one down."""
        gate_BLF = _add(product(x_BLD, _use(self.gate, x_BLD.dtype)), self.gate_bias)
        up_BLF = _add(product(x_BLD, _use(self.up, x_BLD.dtype)), self.up_bias)
        h_BLF = constrain(jax.nn.silu(gate_BLF) * up_BLF, "batch", "sequence", "activation_mlp")
        return _add(product(h_BLF, _use(self.down, x_BLD.dtype)), self.down_bias)


class Layer(nnx.Module):
    """Attention and MLP, each after a norm and added to what came in."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.window = config.sliding_window
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config, rngs)

    def __call__(self, x_BLD: Float[Array, "B L D"], angles: Angles, attend: Attend) -> Float[Array, "B L D"]:
        """One layer over packed rows."""
        q, k, v = self.attention.project(self.attention_norm(x_BLD), angles)
        return self._finish(x_BLD, attend(q, k, v))

    def extend(
        self,
        x_BLD: Float[Array, "B L D"],
        angles: Angles,
        positions_BL: Int[Array, "B L"],
        cache: KVCache,
        number: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B L D"], KVCache]:
        """One layer, of that number, over new tokens, which attend to its part of the cache and join it."""
        q, k, v = self.attention.project(self.attention_norm(x_BLD), angles)
        cache = cache.write(number, k, v, positions_BL)
        heads_BLHQ = cached_attention(q, *cache.layer(number), positions_BL, self.window)
        return self._finish(x_BLD, heads_BLHQ), cache

    def _finish(self, x_BLD: Array, heads_BLHQ: Array) -> Array:
        x_BLD = constrain(x_BLD + self.attention.merge(heads_BLHQ), "batch", "sequence", "activation_embed")
        return constrain(x_BLD + self.mlp(self.mlp_norm(x_BLD)), "batch", "sequence", "activation_embed")


class Llama(nnx.Module):
    """Tokens to hidden states; `logits` gives the next token's scores."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, remat: str = "none", kernel: Kernel = REFERENCE):
        self.config, self.remat, self.kernel = config, remat, kernel
        V, D = config.padded_vocab_size, config.hidden_size

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs)

        self.embedding = _weight(rngs, ("vocab", "embed"), (V, D), fan_in=D)
        self.layers = stack(rngs)
        self.final_norm = RMSNorm(D, config.norm_eps)
        if not config.tied_embeddings:
            self.head = _weight(rngs, ("embed", "vocab"), (D, V), fan_in=D)

    def __call__(
        self, tokens_BL: Int[Array, "B L"], positions_BL: Int[Array, "B L"], segment_ids_BL: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """Hidden states of packed rows; a segment never sees another."""
        angles = rope_angles(positions_BL, self.config)
        attend = attention_over(self.kernel, segment_ids_BL, self.config.sliding_window)
        definition, stacked = nnx.split(self.layers)

        def layer(x_BLD: Array, state: Any) -> tuple[Array, None]:
            return nnx.merge(definition, state)(x_BLD, angles, attend), None

        x_BLD, _ = jax.lax.scan(rematerialise(layer, self.remat), self._embed(tokens_BL), stacked)
        return self.final_norm(x_BLD)

    def extend(
        self, tokens_BL: Int[Array, "B L"], positions_BL: Int[Array, "B L"], cache: KVCache
    ) -> tuple[Float[Array, "B L D"], KVCache]:
        """Hidden states of new tokens after those in the cache, and the cache with them in it.

        Row b's tokens go into the slots `positions_BL[b]`; padding after a row's last token is allowed, as nothing
        attends to a slot beyond its own position before that slot is written again.
        """
        angles = rope_angles(positions_BL, self.config)
        definition, stacked = nnx.split(self.layers)
        carried = self._embed(tokens_BL), cache

        # The whole cache is carried, not scanned over: what is carried is written in place, one token a layer.
        def layer(carried: tuple[Array, KVCache], scanned: Any) -> tuple[tuple[Array, KVCache], None]:
            number, state = scanned
            return nnx.merge(definition, state).extend(carried[0], angles, positions_BL, carried[1], number), None

        if cache.stacked:
            carried, _ = jax.lax.scan(layer, carried, (jnp.arange(self.config.num_layers), stacked))
        else:
            for number in range(self.config.num_layers):
                state = jax.tree.map(lambda layers: layers[number], stacked, is_leaf=_is_tuple)  # noqa: B023
                carried, _ = layer(carried, (number, state))
        return self.final_norm(carried[0]), carried[1]

    def unembedding(self) -> Float[Array, "D V"]:
        """The matrix from hidden states to scores: the head, or the embedding turned over."""
        weight = self.embedding if self.config.tied_embeddings else self.head
        whole = _use(weight, weight.get_value().dtype)
        return whole.T if self.config.tied_embeddings else whole

    def logits(self, hidden_BLD: Float[Array, "B L D"]) -> Float32[Array, "B L V"]:
        """Scores of the next token; -inf for the ids that only pad the vocabulary."""
        config = self.config
        weight = self.embedding if config.tied_embeddings else self.head
        if isinstance(weight.get_value(), Quantised):
            scores = self._scores_part_by_part(hidden_BLD)
        else:
            scores = _scores(hidden_BLD, _use(weight, weight.get_value().dtype), config.tied_embeddings)
        if config.padded_vocab_size != config.vocab_size:
            scores = jnp.where(jnp.arange(config.padded_vocab_size) < config.vocab_size, scores, -jnp.inf)
        return constrain(scores, "batch", "sequence", "activation_vocab")

    def _scores_part_by_part(self, hidden_BLD: Array) -> Array:
        """The scores with a quantised head, which is widened a part of the vocabulary at a time."""
        axis = 0 if self.config.tied_embeddings else 1
        weight = (self.embedding if self.config.tied_embeddings else self.head).get_value()
        names = ("gathered", "gathered")
        parts = self.config.padded_vocab_size // math.gcd(self.config.padded_vocab_size, _VOCABULARY_PART)
        size = self.config.padded_vocab_size // parts

        def part(number: Array) -> Array:
            start = number * size
            some = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis), weight)
            return _scores(hidden_BLD, some.gathered(names, weight.dtype), self.config.tied_embeddings)

        scores_CBLc = jax.lax.map(part, jnp.arange(parts))
        return jnp.moveaxis(scores_CBLc, 0, 2).reshape(*hidden_BLD.shape[:2], -1)

    def _embed(self, tokens_BL: Array) -> Array:
        weight = self.embedding.get_value()
        if isinstance(weight, Quantised):
            whole = jax.tree.map(lambda x: constrain(x, "vocab", "gathered"), weight)
            some = whole[tokens_BL]
            found_BLD = (some.values.astype(jnp.float32) * some.factors).astype(weight.dtype)
        else:
            # Not `_use`: its gradient, scattered at once, would make the compiler move whole activations over the mesh.
            found_BLD = constrain(weight, "vocab", "gathered")[tokens_BL]
        return constrain(found_BLD, "batch", "sequence", "activation_embed")


def _scores(hidden_BLD: Array, matrix: Array, is_embedding: bool) -> Array:
    """Scores of each hidden state, by an embedding [V, D] or by a head [D, V]."""
    if is_embedding:
        # What lies with V first stands first in the product: as the second factor a CPU would turn all of it over.
        return jnp.einsum("VD,BLD->VBL", matrix, hidden_BLD, preferred_element_type=jnp.float32).transpose(1, 2, 0)
    return jnp.einsum("BLD,DV->BLV", hidden_BLD, matrix, preferred_element_type=jnp.float32)
