"""Foresees how the step of a 7B scales over chips that are not here: compiled for 1, 8, 64 and 256 of them.

    python -m tools.scaling --out=DIR [--chip=h100]

Each chip takes two rows of 2,048, so that the batch grows with their number (weak scaling), laid out in three ways:
fsdp over all of them, fsdp × tensor 2, and copies of the model (data) over machines or TPU slices with fsdp within
them. Memory and collectives are the compiler's, times are `plan`'s estimate. One chip holds no float32 weights and
moments of a 7B: there they are bfloat16.

DIR gets scaling.json, scaling.md (a table), scaling.png, and in DIR/compiled what the compilers said, from which a
later start with the same configuration and compilers goes on: remove it when the code has changed. GPUs need the extra
`plan` and some ten seconds each, TPUs the extra `tpu` and minutes.
"""

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_jax.planning.devices import compile_on_this_machine
from alpaca_jax.support.files import explain_os_errors, read_json, write_json_atomic, write_text_atomic
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.support.program import Flags, refuse_unknown, run_program

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from alpaca_jax.parallel.chips import Target
    from alpaca_jax.planning.compiler import CompiledStep

_CONFIG = {"h100": "configs/llama2_7b.py:h100x8", "tpu_v5p": "configs/llama2_7b.py:tpu_v5p_8"}
_ROWS = 2  # of a chip
_TENSOR = 2
# Devices in a copy of the model where there are several: a machine of GPUs, a slice of TPUs.
_COPY = {"h100": 8, "tpu_v5p": 32}
_TPU_SLICES = {1: "1x1x1", 8: "2x2x2", 32: "2x4x4", 64: "4x4x4", 256: "4x8x8"}
_ONE_DEVICE = {"model.parameter_dtype": "bfloat16", "optimizer.first_moment_dtype": "bfloat16", "model.remat": "full"}
_COMPILERS = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "libtpu")
_HEAD = (
    "| chip | devices | layout | state / peak GiB | sends / by network GB | arithmetic s | communication s "
    "| step s (all overlapped – none) | efficiency (none overlapped) | MFU |"
)
LAYOUTS = ("fsdp", "fsdp × tensor", "data × fsdp")


@dataclasses.dataclass(frozen=True)
class Case:
    """A number of chips and a layout of the model over them.

    Attributes:
      chip: a name of `CHIPS`.
      devices: how many.
      layout: one of `LAYOUTS`.
      data: copies of the model.
      tensor: parts of each matrix product.
    """

    chip: str
    devices: int
    layout: str
    data: int = 1
    tensor: int = 1

    @property
    def mesh(self) -> str:
        """The sizes of its axes, for people."""
        sizes = {"data": self.data, "fsdp": self.devices // (self.data * self.tensor), "tensor": self.tensor}
        return " × ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)

    @property
    def target(self) -> "Target":
        """The machines, as the compiler wants them described."""
        from alpaca_jax.parallel.chips import Target

        if self.chip == "h100":
            hosts = max(1, self.devices // 8)
            return Target("gpu", self.chip, self.devices, hosts, f"1x{hosts}x{self.devices // hosts}")
        topology = f"v5p:{_TPU_SLICES[self.devices // self.data]}"
        return Target("tpu", self.chip, self.devices, max(1, self.devices // 4), topology, self.data)

    def config(self) -> "ConfigDict":
        """What is compiled."""
        from alpaca_jax.training.command_line import read_config

        changes: dict[str, Any] = {"mesh.data": self.data, "mesh.tensor": self.tensor}
        changes["train.batch_rows"] = _ROWS * self.devices
        changes |= _ONE_DEVICE if self.devices == 1 else {}
        return read_config(_CONFIG[self.chip], [f"--config.{key}={value}" for key, value in changes.items()])


def cases(chip: str) -> list[Case]:
    """What is compiled for a chip, the fewest devices first."""
    found = [Case(chip, 1, "fsdp")]
    for devices in (8, 64, 256):
        found.append(Case(chip, devices, "fsdp"))
        found.append(Case(chip, devices, "fsdp × tensor", tensor=_TENSOR))
        if devices > _COPY[chip]:
            found.append(Case(chip, devices, "data × fsdp", data=devices // _COPY[chip]))
    return found


def main() -> None:
    """Parses the flags, compiles what is not there yet, and writes."""
    flags = Flags(prog="python -m tools.scaling", description=__doc__)
    flags.add_argument("--out", metavar="DIR", required=True, help="the folder to write")
    flags.add_argument("--chip", metavar="NAME", help=f"one alone of {', '.join(_CONFIG)}")
    values = flags.parse()
    if values.chip and values.chip not in _CONFIG:
        refuse_unknown(values.chip, list(_CONFIG), "--chip")
    out = Path(values.out)
    with explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)

    compile_on_this_machine()
    from tools.scaling_plot import plot

    rows: list[dict[str, Any]] = []
    for chip in [values.chip] if values.chip else _CONFIG:
        rows += with_efficiency([figures(case, compiled(case, out / "compiled")) for case in cases(chip)])
        assumptions = {row["chip"]: row["assumptions"] for row in rows if row["devices"] > 8}
        write_json_atomic(out / "scaling.json", {"versions": _versions(), "assumptions": assumptions, "rows": rows})
        write_text_atomic(out / "scaling.md", table(rows))
    plot(out / "scaling.png", rows)
    print(table(rows), end="")


def compiled(case: Case, folder: Path) -> "CompiledStep":
    """What the compiler says of a case: read from the folder, or asked and written there.

    Raises:
      UserError: no compiler for the chip is installed.
    """
    from alpaca_jax.model.presets import preset
    from alpaca_jax.planning.compiler import CompiledStep, compile_step
    from alpaca_jax.planning.hlo import Collective

    config, target = case.config(), case.target
    settings = [config.to_dict(), dataclasses.asdict(target), _versions()]
    path = folder / f"{case.chip}_{case.devices}_{case.data}x{case.tensor}_{sha256_json(settings)[:12]}.json"
    if not path.exists():
        step = dataclasses.asdict(compile_step(config, target, preset(config.model.preset)))
        write_json_atomic(path, step | {"kernels": sorted(step["kernels"])})
    step = read_json(path)
    collectives = [Collective(**one | {"group": tuple(one["group"])}) for one in step["collectives"]]
    return CompiledStep(**step | {"kernels": set(step["kernels"]), "collectives": collectives})


def figures(case: Case, step: "CompiledStep") -> dict[str, Any]:
    """What `plan` says of it, and: GB that a device sends, and that its share of the network carries; its arithmetic
    and its communication in seconds, and the step's time were they at the same time, or one after the other.
    """
    from alpaca_jax.model.presets import preset
    from alpaca_jax.parallel.chips import CHIPS
    from alpaca_jax.planning.estimate import estimate
    from alpaca_jax.planning.forecast import Data, Forecast

    config, target, chip = case.config(), case.target, CHIPS[case.chip]
    parts = estimate(chip, target, step)
    plan = Forecast(config, target, preset(config.model.preset), step, parts, Data(), chip.price).as_json()
    computing = parts.products + parts.attention + parts.memory
    return dataclasses.asdict(case) | {
        "mesh": case.mesh,
        "rows": config.train.batch_rows,
        **{key: plan[key] for key in ("fits", "state_gib", "peak_gib", "limit_gib", "collectives", "mfu")},
        "sent_gb": sum(one.sent() for one in step.collectives) / 1e9,
        "network_gb": sum(one.sent_between() for one in step.collectives) / 1e9,
        "computing": computing,
        "communication": parts.communication,
        "step": parts.step,
        "step_overlapped": max(computing, parts.communication),
        "step_in_turn": computing + parts.communication,
        "tokens_per_second": plan["tokens_per_second"],
        "assumptions": plan["assumptions"],
    }


def with_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a chip, each with the step's time of the same work on eight devices with fsdp over its own: as `plan`
    estimates it, and with no communication beside the arithmetic in either. One device works otherwise: None.
    """
    (first,) = (row for row in rows if row["devices"] == 8 and row["layout"] == "fsdp")

    def against_first(row: dict[str, Any], step: str) -> float | None:
        return None if row["devices"] == 1 else first[step] / row[step]

    return [row | {f"efficiency{way}": against_first(row, f"step{way}") for way in ("", "_in_turn")} for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people, in Markdown."""
    lines = [_HEAD, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        cells = [
            row["chip"],
            f"{row['devices']}",
            row["mesh"] or "bfloat16 state, remat full",
            f"{row['state_gib']:.1f} / {row['peak_gib']:.1f}" + ("" if row["fits"] else " (does not fit)"),
            f"{row['sent_gb']:.1f} / {row['network_gb']:.2f}",
            f"{row['computing']:.3f}",
            f"{row['communication']:.3f}",
            f"{row['step']:.3f} ({row['step_overlapped']:.3f}–{row['step_in_turn']:.3f})",
            f"{row['efficiency']:.0%} ({row['efficiency_in_turn']:.0%})" if row["efficiency"] else "–",
            f"{row['mfu']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    found = {}
    for package in metadata.distributions():
        if package.name in _COMPILERS:
            found[package.name] = package.version
    return dict(sorted(found.items()))


if __name__ == "__main__":
    run_program(main)
