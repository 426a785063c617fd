"""Fused attention over packed rows, by name, laid over the mesh.

Every kernel gives what `attention.packed_attention`, the reference, gives: causal, a token sees its own segment alone,
padding (segment 0) being one more segment, so that no row of the softmax is ever empty. Which kernel a machine can run
is decided in `attention_choice`, before any work; here one that cannot is an error of the library.

Rows lie over the mesh axes `data` and `fsdp`, heads over `tensor`: each device runs the kernel on its own. Where a
row's positions lie over `context`, queries stay and keys and values are gathered, whose gradients are then scattered:
with grouped heads that moves a fraction of what moving the queries would (Llama 3, https://arxiv.org/abs/2407.21783,
section 3.3.2).

B batch, L queries, S keys, H heads, K key-value heads, Q head dimension, M segments of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from alpaca_jax.model.attention import packed_attention, visible
from alpaca_jax.parallel.sharding import constrain, gather, partition_spec

QUERIES = ("batch", "sequence", "activation_heads", "head_dim")
KEYS = QUERIES
# Of the reference's queries: more of them save less and less, and smaller ones keep no device busy.
_MOST_BLOCKS, _SMALLEST_BLOCK = 4, 128
# The mesh axis over which a row's positions lie.
_CONTEXT = "context"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An attention kernel.

    Attributes:
      name: a key of `attention_choice.KERNELS`.
      most_segments: of one row, its padding not counted; `cudnn_packed` must know.
      interpret: whether Pallas interprets it, on whatever device; how tests run it on a CPU.
    """

    name: str = "xla"
    most_segments: int = 0
    interpret: bool = False


REFERENCE = Kernel()


# Queries [B, L, H, Q], keys and values [B, L, K, Q] to the heads' outputs [B, L, H, Q]: the same in every layer.
Attend = Callable[[Array, Array, Array], Array]


def attention_over(kernel: Kernel, segment_ids_BL: Int[Array, "B L"], window: int | None) -> Attend:
    """The attention of all layers over these rows; what depends on the segments alone is worked out here, once.

    Args:
      kernel: as `attention_choice.choose_attention` gives it.
      segment_ids_BL: 0 is padding; a segment's tokens lie together.
      window: how many places a token sees, itself counted; None for all.
    """
    return _PREPARE[kernel.name](kernel, segment_ids_BL, window)


def context_parts() -> int:
    """Into how many parts the mesh in use splits a row."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[_CONTEXT]


def on_each_device(function: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
    """`function` on the part that each device has; on all at once outside a mesh (`jax.set_mesh`).

    Args:
      function: of queries, keys, values (these whole along a row) and more, to outputs that lie as the queries do.
      specs: `PartitionSpec`s of what comes after the values.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    parts = context_parts()

    def local(q: Array, k: Array, v: Array, *more: Any) -> Array:
        if parts > 1:
            k, v = (jax.lax.all_gather(x, _CONTEXT, axis=1, tiled=True) for x in (k, v))
        return function(q, k, v, *more)

    lies = partition_spec(QUERIES), partition_spec(KEYS), partition_spec(KEYS)
    # Every array is split over all axes of the mesh, so there is nothing whose replication would have to be tracked;
    # Pallas kernels do not say it.
    return jax.shard_map(local, in_specs=(*lies, *specs), out_specs=lies[0], check_vma=False)


def _xla(kernel: Kernel, segment_ids_BL: Array, window: int | None) -> Attend:
    whole = context_parts() == 1
    blocks = min(_MOST_BLOCKS, segment_ids_BL.shape[1] // _SMALLEST_BLOCK) if whole else 1

    def attend(q_BLHQ: Array, k_BLKQ: Array, v_BLKQ: Array) -> Array:
        if not whole:
            k_BLKQ, v_BLKQ = gather(k_BLKQ, KEYS), gather(v_BLKQ, KEYS)
        return packed_attention(q_BLHQ, k_BLKQ, v_BLKQ, segment_ids_BL, window, max(1, blocks))

    return attend


def _cudnn(kernel: Kernel, segment_ids_BL: Array, window: int | None) -> Attend:
    """The flash attention of cuDNN, the mask a bias: blocks above the diagonal are left out, others are not."""
    places_1L = jnp.arange(segment_ids_BL.shape[1])[None]
    mask_BLS = visible(places_1L, places_1L, window, (segment_ids_BL, segment_ids_BL))
    mask_BLS = constrain(mask_BLS, "batch", "sequence", "whole_sequence")
    is_causal = context_parts() == 1  # it would count a part's queries from 0

    def local(q: Array, k: Array, v: Array, mask_BLS: Bool[Array, "B L S"]) -> Array:
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask_BLS[:, None], is_causal=is_causal, implementation="cudnn"
        )

    attend = on_each_device(local, partition_spec(("batch", "sequence", "whole_sequence")))
    return lambda q, k, v: attend(q, k, v, mask_BLS)


def _cudnn_packed(kernel: Kernel, segment_ids_BL: Array, window: int | None) -> Attend:
    """The layout of cuDNN for segments of any length: only pairs within a segment are worked on."""
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention  # no public way to it

    starts_BM, lengths_BM = segment_places(segment_ids_BL, kernel.most_segments + 1)

    def local(q: Array, k: Array, v: Array, starts: Array, lengths: Array) -> Array:
        ends = jnp.pad(starts, ((0, 0), (0, 1)), constant_values=-1)  # a segment ends where the next one starts
        return dot_product_attention(
            q, k, v, None, None, lengths, lengths, ends, ends,
            scale=q.shape[-1] ** -0.5, mask_type=MaskType.PADDING_CAUSAL, sliding_window_length=window,
        )  # fmt: skip

    rows = partition_spec(("batch",))
    attend = on_each_device(local, rows, rows)
    return lambda q, k, v: attend(q, k, v, starts_BM, lengths_BM)


def segment_places(segment_ids_BL: Int[Array, "B L"], most: int) -> tuple[Int[Array, "B M"], Int[Array, "B M"]]:
    """Where the segments of each row start and how long they are, padding as one more; -1 for those that are not.

        segments 1 1 1 2 2 0, most 4:   starts 0 3 5 -1   lengths 3 2 1 -1

    Of a row with more than `most` the last are left out: no caller may let that happen.
    """
    rows, length = segment_ids_BL.shape
    changes_BL = jnp.diff(segment_ids_BL, axis=1) != 0
    is_start_BL = jnp.concatenate([jnp.ones((rows, 1), bool), changes_BL], axis=1)
    places_BL = jnp.where(is_start_BL, jnp.arange(length), length)
    bounds_BM = jnp.sort(places_BL, axis=1)
    bounds_BM = jnp.pad(bounds_BM, ((0, 0), (0, max(0, most + 1 - length))), constant_values=length)[:, : most + 1]
    starts_BM, ends_BM = bounds_BM[:, :-1], bounds_BM[:, 1:]
    is_there_BM = starts_BM < length
    absent = jnp.int32(-1)
    starts_BM, lengths_BM = (x.astype(jnp.int32) for x in (starts_BM, ends_BM - starts_BM))
    return jnp.where(is_there_BM, starts_BM, absent), jnp.where(is_there_BM, lengths_BM, absent)


def _splash(kernel: Kernel, segment_ids_BL: Array, window: int | None) -> Attend:
    from alpaca_jax.model.splash_attention import splash_over

    return splash_over(kernel, segment_ids_BL, window)


_PREPARE: dict[str, Callable[[Kernel, Array, int | None], Attend]] = {
    "xla": _xla,
    "cudnn": _cudnn,
    "cudnn_packed": _cudnn_packed,
    "splash": _splash,
}
