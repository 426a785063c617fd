"""Splash attention, the flash attention for TPUs that comes with JAX: blocks that a mask leaves empty are skipped.

B batch, L queries, S keys, H heads, K key-value heads, Q head dimension.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from alpaca_jax.model.attention_kernels import Attend, Kernel, context_parts, on_each_device
from alpaca_jax.parallel.sharding import partition_spec

# Larger blocks take longer to become worth skipping and more of the chip's own memory: 1,024 × 1,024 float32 scores
# are 4 MiB, of which a v5e gives a kernel 16.
_LARGEST_BLOCK = 1024
_COMPUTED_AT_ONCE = 512


def splash_over(kernel: Kernel, segment_ids_BL: Int[Array, "B L"], window: int | None) -> Attend:
    """As `attention_kernels.attention_over`."""
    parts, length = context_parts(), segment_ids_BL.shape[1]

    def attend(q_BLHQ: Array, k_BLKQ: Array, v_BLKQ: Array) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        heads = q_BLHQ.shape[2] // (1 if mesh.empty else mesh.shape["tensor"])
        made = _make(heads, length, parts, window, kernel.interpret)
        specs: tuple[Any, ...] = ()
        if not mesh.empty:
            # Each part of a row has its own part of the mask.
            along = NamedSharding(mesh, PartitionSpec(None, partition_spec(("sequence",))[0]))
            rows = partition_spec(("batch", "sequence"))
            specs = (made.manual_sharding_spec(along), rows, partition_spec(("batch", "whole_sequence")))
        return on_each_device(_local, *specs)(q_BLHQ, k_BLKQ, v_BLKQ, made, segment_ids_BL, segment_ids_BL)

    return attend


def _local(q_BLHQ: Array, k_BSKQ: Array, v_BSKQ: Array, made: Any, queries_BL: Array, keys_BS: Array) -> Array:
    # The kernel does not scale; in float32, so that the queries are rounded once.
    scaled_BLHQ = (q_BLHQ.astype(jnp.float32) * q_BLHQ.shape[-1] ** -0.5).astype(q_BLHQ.dtype)
    q_BHLQ, k_BKSQ, v_BKSQ = (x.swapaxes(1, 2) for x in (scaled_BLHQ, k_BSKQ, v_BSKQ))
    o_BHLQ = jax.vmap(made)(q_BHLQ, k_BKSQ, v_BKSQ, splash.SegmentIds(queries_BL, keys_BS))
    return o_BHLQ.swapaxes(1, 2)


def _make(heads: int, length: int, parts: int, window: int | None, interpret: bool) -> Any:
    """The kernel for rows of `length` in `parts`, its mask as numbers of a few bytes a block."""
    square = (length, length)
    mask: masks.Mask = masks.CausalMask(square, shard_count=parts)
    if window is not None:
        mask = masks.LocalMask(square, (window - 1, 0), offset=0, shard_count=parts)
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=_block_sizes(length, parts),
        head_shards=1,
        q_seq_shards=parts,
        interpret=interpret,
    )


def _block_sizes(length: int, parts: int) -> splash.BlockSizes:
    q = math.gcd(length // parts, _LARGEST_BLOCK)
    kv = math.gcd(length, _LARGEST_BLOCK)
    at_once = min(kv, _COMPUTED_AT_ONCE)
    return splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=at_once,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=at_once,
        block_q_dq=q,
        block_kv_dq=kv,
    )
