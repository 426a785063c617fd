"""Puts known defects into a copy of this code, one at a time, and shows which test of `make test` notices each.

    python tools/try_mutations.py [--only=GLOB]

The defects, and the tests that should notice them, are in tools/mutations.toml. The tests run in a copy, so that this
tree stays as it is; first they run there as it is, since a test that fails anyway notices nothing. The last line on
standard output is JSON. Exit code 1 where a defect went unnoticed.
"""

import dataclasses
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

ROOT = Path(__file__).parents[1]
_COPIED = ("alpaca_jax", "configs", "launch", "tests", "tools", "Makefile", "README.md", "pyproject.toml")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.M)
# pytest's own: 1 where a test failed; 2 to 5 where it could not run them.
_TESTS_PASSED, _TESTS_FAILED = 0, 1


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A defect: in `file`, the text `old`, which stands there once, becomes `new`; one of `tests` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> tuple[str, str]:
        """The text of the file under `root`, and what becomes of it.

        Raises:
          UserError: the text to change does not stand there exactly once.
        """
        text = (root / self.file).read_text()
        if (count := text.count(self.old)) != 1:
            raise UserError(
                f"mutation {self.name!r}",
                expected=f"{self.old!r} once in {self.file}",
                found=f"{count} times",
                remedy="write it anew in tools/mutations.toml, as the code now is",
            )
        return text, text.replace(self.old, self.new)


def main() -> int:
    """Parses the flags and tries the mutations; exit code 1 where one went unnoticed."""
    flags = Flags(prog="python tools/try_mutations.py", description=__doc__)
    flags.add_argument("--mutations", metavar="FILE", default=str(ROOT / "tools/mutations.toml"), help="the defects")
    flags.add_argument("--only", metavar="GLOB", default="*", help="those of this name alone, as '*rope*'")
    values = flags.parse()
    mutations = [one for one in read_mutations(Path(values.mutations)) if fnmatch.fnmatch(one.name, values.only)]
    if not mutations:
        raise UserError("--only", expected="the name of a mutation", found=values.only, remedy="see the file's names")
    with tempfile.TemporaryDirectory() as scratch:
        root = copy_of_the_tree(Path(scratch))
        for mutation in mutations:
            mutation.applied(root)  # before hours of tests, not after
        in_order(root, sorted({test for mutation in mutations for test in mutation.tests}))
        noticed = {mutation.name: notice(root, mutation) for mutation in mutations}
    unnoticed = [name for name, test in noticed.items() if test is None]
    print_json({"mutations": len(mutations), "noticed": len(mutations) - len(unnoticed), "unnoticed": unnoticed})
    return 1 if unnoticed else 0


def read_mutations(path: Path) -> list[Mutation]:
    """The mutations of a file.

    Raises:
      UserError: it cannot be read, or an entry has not got just the fields of `Mutation`.
    """
    try:
        entries = tomllib.loads(path.read_text())["mutation"]
        return [Mutation(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Mutation))
        raise UserError(
            str(path), expected=f"tables [[mutation]] with {fields}", found=str(error), remedy="correct the file"
        ) from error


def copy_of_the_tree(folder: Path) -> Path:
    """What the tests need, copied into a folder."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def in_order(root: Path, tests: Sequence[str]) -> None:
    """Runs the tests on the code as it is.

    Raises:
      UserError: one fails.
    """
    code, test, seconds = run_tests(root, tests)
    if code != _TESTS_PASSED:
        raise UserError(
            "the code as it is", expected="tests that pass", found=f"{test} fails", remedy="mend that first"
        )
    say(f"{'passed':<10}{seconds:5.0f} s  the code as it is")


def notice(root: Path, mutation: Mutation) -> str | None:
    """The first test that fails with the defect; None where none does. The copy is as before then."""
    before, after = mutation.applied(root)
    (root / mutation.file).write_text(after)
    code, test, seconds = run_tests(root, mutation.tests)
    (root / mutation.file).write_text(before)
    if code not in (_TESTS_PASSED, _TESTS_FAILED):
        raise UserError(
            f"mutation {mutation.name!r}",
            expected="code that can be run, and tests that exist",
            found=f"{test or 'none'} (pytest's exit code {code})",
            remedy="correct tools/mutations.toml",
        )
    say(f"{'noticed' if test else 'UNNOTICED':<10}{seconds:5.0f} s  {mutation.name}  {test or ''}".rstrip())
    return test


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str | None, float]:
    """The exit code of pytest, the first test that failed, and how long it took in seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "-p", "no:cacheprovider", "--durations=0", *tests]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    failed = _FAILED.search(done.stdout)
    return done.returncode, failed and failed[1], time.monotonic() - began


def say(line: str) -> None:
    """Prints a line at once: a run takes long, and is watched."""
    print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
