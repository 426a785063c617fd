"""Measures `convert`: peak memory, and time as a multiple of copying the same files.

    python tools/measure_convert.py --tokenizer=FILE --work=DIR [--preset=llama_7b] [--steps=import,export,diff,recover]
                                    [--repeat=2] [--json]

In DIR, which is removed in the end, random models are made (`make_random_llama.py`); 7B ones need 41 GB of disk for
import and export, 54 GB with diff and recover. Each step is a process of its own and takes turns with `cp -r` of the
files that it reads (for `diff` the tuned model, for `recover` the diff). Both start without these files in the page
cache, write to a new folder, and end when the disk has everything. Memory is what the kernel says was the most the
process had (its maximum resident set size, pages of mapped files included).
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.program import Flags, print_json, run_program

_STEPS = ("import", "export", "diff", "recover")
_ADVICE = "make the folder's disk larger, or choose a smaller preset"


def main() -> int | None:
    """Parses the flags, measures and prints."""
    flags = Flags(prog="python tools/measure_convert.py", description=__doc__)
    flags.add_argument("--tokenizer", required=True, help="any tokenizer of at most the preset's ids")
    flags.add_argument("--work", required=True, help="a folder to make")
    flags.add_argument("--preset", default="llama_7b", help="the size (default llama_7b)")
    flags.add_argument("--steps", default=",".join(_STEPS), help="which (default all)")
    flags.add_argument("--repeat", type=int, default=2, help="how often (default 2); medians are given")
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse()
    steps = values.steps.split(",")
    if not set(steps) <= set(_STEPS):
        raise UserError("--steps", expected=f"some of {','.join(_STEPS)}", found=values.steps, remedy="correct it")
    work = Path(values.work)
    with explain_os_errors(work):
        work.mkdir(parents=True)
    try:
        figures = {}
        make_models(work, values.preset, values.tokenizer, steps)
        for step in (step for step in _STEPS if step in steps or (step == "import" and "export" in steps)):
            figures[step] = measure(work, step, values.repeat if step in steps else 1)
            print(
                f"{step:8} {figures[step]['peak_gib']:6.2f} GiB {figures[step]['seconds']:7.1f} s"
                f" {figures[step]['copy_seconds']:7.1f} s copying {figures[step]['ratio']:5.2f} ×",
                file=sys.stderr,
                flush=True,
            )
        if values.json:
            print_json(figures)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def make_models(work: Path, preset: str, tokenizer: str, steps: list[str]) -> None:
    """Makes the base, and the tuned model where it is needed."""
    seeds = {"base": 0} | ({"tuned": 1} if {"diff", "recover"} & set(steps) else {})
    for name, seed in seeds.items():
        tool = Path(__file__).with_name("make_random_llama.py")
        flags = [f"--preset={preset}", f"--tokenizer={tokenizer}", f"--out={work / name}", f"--seed={seed}"]
        subprocess.run([sys.executable, str(tool), *flags], check=True)


def measure(work: Path, step: str, repeat: int) -> dict[str, float]:
    """Runs one step and the copying by turns, and leaves the step's output for the next one."""
    base, ours, tuned, diff = (work / name for name in ("base", "ours", "tuned", "diff"))
    flags, copied, out = {
        "import": ([f"--source={base}"], base, ours),
        "export": ([f"--checkpoint={ours}"], ours, work / "exported"),
        "diff": ([f"--base={base}", f"--tuned={tuned}"], tuned, diff),
        "recover": ([f"--base={base}", f"--diff={diff}"], diff, work / "recovered"),
    }[step]
    seconds, copying, peaks = [], [], []
    command = [sys.executable, "-m", "alpaca_jax.convert", step, *flags, f"--out={out}"]
    for _ in range(repeat):
        shutil.rmtree(out, ignore_errors=True)
        copying.append(timed(work, ["cp", "-r", str(copied), str(work / "copy")])[0])
        shutil.rmtree(work / "copy")
        elapsed, peak = timed(work, command)
        seconds.append(elapsed)
        peaks.append(peak)
    for folder in {"export": [ours, out], "diff": [tuned]}.get(step, []):  # nothing that follows reads these
        shutil.rmtree(folder)
    return {
        "peak_gib": max(peaks) / 2**30,
        "seconds": statistics.median(seconds),
        "copy_seconds": statistics.median(copying),
        "ratio": statistics.median(mine / copy for mine, copy in zip(seconds, copying, strict=True)),
    }


def timed(work: Path, command: list[str]) -> tuple[float, int]:
    """Seconds until the disk has everything, and the process's peak memory in bytes."""
    os.sync()
    for file in (file for file in work.rglob("*") if file.is_file()):
        with open(file, "rb") as raw:
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(" ".join(command), expected="exit code 0", found=str(process.returncode), remedy=_ADVICE)
    os.sync()
    return time.monotonic() - start, usage.ru_maxrss * 1024


if __name__ == "__main__":
    run_program(main)
