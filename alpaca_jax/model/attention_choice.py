"""Which attention kernel a machine runs, and why: by name, or the fastest known to be right for it.

A kernel that cannot honour the segments, the window or the shapes is refused by name; nothing is replaced in silence.
"""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from alpaca_jax.model.attention_kernels import Kernel
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import refuse_unknown

KERNELS = {
    "xla": "the reference: plain arithmetic, on any device",
    "cudnn": "cuDNN's flash attention, the segments as a mask (NVIDIA, from A100)",
    "cudnn_packed": "cuDNN's layout for segments of any length (NVIDIA, from H100)",
    "splash": "the flash attention for TPUs that comes with JAX",
}
_BY_PLATFORM = {"gpu": "cudnn", "tpu": "splash"}
_AMPERE, _HOPPER = 8.0, 9.0  # compute capabilities
_SPLASH_BLOCK = 128  # positions: the width of a TPU's vector registers


@dataclasses.dataclass(frozen=True)
class Need:
    """What attention is needed for.

    Attributes:
      model: sets head dimension and window.
      seq_len: the length of the rows.
      dtype: in which the model computes.
      most_segments: the largest number of segments in a row; 0 where the rows are not known yet.
    """

    model: ModelConfig
    seq_len: int
    dtype: str
    most_segments: int = 0


@dataclasses.dataclass(frozen=True)
class Choice:
    """A kernel, what it is needed for and, in a few words, why this one."""

    kernel: Kernel
    need: Need
    reason: str


def choose_attention(name: str, mesh: Mesh, need: Need) -> Choice:
    """The kernel of that name, or, for `auto`, what the mesh's devices run fastest and right.

    The devices need not be here: `plan` chooses for others.

    Raises:
      UserError: no such kernel, or it cannot do what is needed on these devices.
    """
    device = mesh.devices.flat[0]
    if name == "auto":
        best = _BY_PLATFORM.get(device.platform, "xla")
        obstacle = _obstacle(best, device, mesh, need)
        if obstacle is None:
            return Choice(Kernel(best), need, f"{KERNELS[best]}; chosen for {device.device_kind}")
        expected, found = obstacle
        return Choice(Kernel("xla"), need, f"{KERNELS['xla']}; {best} needs {expected}, found {found}")
    if name not in KERNELS:
        refuse_unknown(name, ["auto", *KERNELS], "config.model.attention")
    if obstacle := _obstacle(name, device, mesh, need):
        expected, found = obstacle
        raise UserError(
            f"config.model.attention {name!r}",
            expected=expected,
            found=found,
            remedy="set --config.model.attention=auto",
        )
    most_segments = need.most_segments if name == "cudnn_packed" else 0
    return Choice(Kernel(name, most_segments), need, f"{KERNELS[name]}; asked for")


def _obstacle(name: str, device: Any, mesh: Mesh, need: Need) -> tuple[str, str] | None:
    """What the kernel expects and does not find, if anything."""
    if name == "xla":
        return None
    platform = "tpu" if name == "splash" else "gpu"
    if device.platform != platform:
        return f"{platform} devices", device.device_kind
    if need.dtype != "bfloat16":
        return "config.model.compute_dtype=bfloat16", need.dtype
    return _splash_obstacle(mesh, need) if name == "splash" else _cudnn_obstacle(name, device, mesh, need)


def _splash_obstacle(mesh: Mesh, need: Need) -> tuple[str, str] | None:
    part = need.seq_len // mesh.shape["context"]
    if part % _SPLASH_BLOCK:
        return f"a multiple of {_SPLASH_BLOCK} positions of a row on each device", str(part)
    return None


def _cudnn_obstacle(name: str, device: Any, mesh: Mesh, need: Need) -> tuple[str, str] | None:
    head_dim, capability = need.model.head_dim, _capability(device)
    if capability < _AMPERE:
        return f"an NVIDIA chip from A100 (compute capability {_AMPERE})", device.device_kind
    if head_dim % 8 or head_dim > 128:
        return "a head dimension up to 128, a multiple of 8", str(head_dim)
    if need.seq_len // mesh.shape["context"] % 2:
        return "an even number of positions of a row on each device", str(need.seq_len // mesh.shape["context"])
    if name == "cudnn":
        return None
    if capability < _HOPPER:
        return f"an NVIDIA chip from H100 (compute capability {_HOPPER})", device.device_kind
    if mesh.shape["context"] > 1:
        return "config.mesh.context=1, as its segments lie whole on a device", str(mesh.shape["context"])
    if not need.most_segments:
        return "rows to count the segments of, and the chip itself", "a plan"
    if not _has_packed_layout():
        return "a JAX that offers cuDNN's packed layout", "one that does not"
    return None


def _capability(device: Any) -> float:
    try:
        return float(device.compute_capability)
    except ValueError:  # another maker's, as gfx942
        return 0.0


def _has_packed_layout() -> bool:
    """Whether JAX still has what it has no public name for."""
    import inspect

    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

        accepted = inspect.signature(dot_product_attention).parameters
    except ImportError:
        return False
    return hasattr(MaskType, "PADDING_CAUSAL") and {"q_offsets", "kv_offsets", "sliding_window_length"} <= set(accepted)
