"""The accelerators that runs are planned for and measured against, and the machines (targets) made of them.

Arithmetic, memory and bandwidth are the vendors' datasheets; links count one direction.
"""

import dataclasses
from typing import Literal

Platform = Literal["cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      platform: gpu or tpu.
      kinds: the names that JAX gives such a device.
      flops: dense bfloat16 FLOP/s.
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      link: bytes/s that a chip sends to its neighbours in the same machine or slice, all links together: NVLink, or ICI
        with one neighbour along each axis of the torus, as in slices too small to close into rings (twice that in those
        that do).
      network: bytes/s of a chip's share of the network between machines, of TPUs between slices
        (https://docs.cloud.google.com/tpu/docs/v5p: 50 Gbit/s a chip).
      host: bytes/s between a chip and its machine's memory, one direction (PCIe 4 or 5, 16 lanes; of TPUs, which do not
        say it, taken to be PCIe 3).
      price: USD an hour; what clouds asked on demand for one chip in 2026, roughly: give your own with `--price`.
    """

    platform: Platform
    kinds: tuple[str, ...]
    flops: float
    memory: int
    bandwidth: float
    link: float
    network: float
    host: float
    price: float


GIB = 2**30
CHIPS = {
    "a100_80gb": Chip("gpu", ("NVIDIA A100-SXM4-80GB",), 312e12, 85_100_068_864, 2.039e12, 300e9, 25e9, 32e9, 2.0),
    "a100_40gb": Chip("gpu", ("NVIDIA A100-SXM4-40GB",), 312e12, 42_505_273_344, 1.555e12, 300e9, 25e9, 32e9, 1.5),
    "h100": Chip("gpu", ("NVIDIA H100 80GB HBM3",), 989e12, 84_929_347_584, 3.352e12, 450e9, 50e9, 64e9, 3.0),
    "h200": Chip("gpu", ("NVIDIA H200",), 989e12, 150_754_820_096, 4.8e12, 450e9, 50e9, 64e9, 3.8),
    "tpu_v4": Chip("tpu", ("TPU v4",), 275e12, 32 * GIB, 1.23e12, 150e9, 6e9, 16e9, 3.22),
    "tpu_v5e": Chip("tpu", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 0.82e12, 100e9, 3.125e9, 16e9, 1.2),
    "tpu_v5p": Chip("tpu", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2.77e12, 300e9, 6.25e9, 16e9, 4.2),
    "tpu_v6e": Chip("tpu", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1.64e12, 180e9, 12.5e9, 16e9, 2.7),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine, or several, that a configuration can be run on.

    Attributes:
      platform: cpu, gpu or tpu.
      chip: a name of `CHIPS`; empty where the target is whatever is there.
      devices: how many chips in all (Google's names count TensorCores on v4 and v5p, two a chip); 0 for all there are.
      hosts: machines that they are spread over.
      topology: what the compiler calls their arrangement: for GPUs slices × hosts × chips a host, for TPUs one slice's.
      slices: TPU slices joined by the network; `topology` is that of each.
    """

    platform: Platform
    chip: str = ""
    devices: int = 0
    hosts: int = 1
    topology: str = ""
    slices: int = 1


TARGETS = {
    "cpu": Target("cpu"),
    "gpu": Target("gpu"),
    "tpu": Target("tpu"),
    "a100x8": Target("gpu", "a100_80gb", 8, 1, "1x1x8"),
    "a100_40gb_x8": Target("gpu", "a100_40gb", 8, 1, "1x1x8"),
    "h100x8": Target("gpu", "h100", 8, 1, "1x1x8"),
    "h100x32": Target("gpu", "h100", 32, 4, "1x4x8"),
    "h200x1": Target("gpu", "h200", 1, 1, "1x1x1"),
    "h200x8": Target("gpu", "h200", 8, 1, "1x1x8"),
    "h200x16": Target("gpu", "h200", 16, 2, "1x2x8"),
    "tpu_v4_32": Target("tpu", "tpu_v4", 32, 8, "v4:2x4x4"),
    "tpu_v5e_16": Target("tpu", "tpu_v5e", 16, 4, "v5e:4x4"),
    "tpu_v5p_8": Target("tpu", "tpu_v5p", 8, 2, "v5p:2x2x2"),
    "tpu_v5p_64": Target("tpu", "tpu_v5p", 64, 16, "v5p:4x4x4"),
    "tpu_v6e_8": Target("tpu", "tpu_v6e", 8, 1, "v6e:2x4"),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, or None where the table lacks it, as for a CPU."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
