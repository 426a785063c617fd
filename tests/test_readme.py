"""The README holds: its tree names every file of the package, its programs have the flags that it names, its counts."""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_jax.cli import PROGRAMS
from alpaca_jax.data.audit.kinds import KINDS
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.packed_dataset import open_packed_dataset
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.evaluation.embedded import QUESTIONS

README = Path("README.md").read_text(encoding="utf-8")
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def block_after(heading: str) -> list[str]:
    """The lines of the first indented block after a heading."""
    lines = README[README.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    "))
    end = next(i for i, line in enumerate(lines[start:], start) if not line.startswith("    "))
    return [line[4:] for line in lines[start:end]]


def named_in_the_tree() -> set[str]:
    """Paths and patterns under alpaca_jax/ that the tree names; a folder ends in a slash."""
    names, top, folder = set(), "", ""
    for line in block_after("### The tree"):
        words = line.strip().split("   ")[0].split()
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            top = folder = words[0]
        elif depth == 2:
            folder = top + words[0] if words[0].endswith("/") else top
            names.add(folder)
        if depth in (2, 4) and top == "alpaca_jax/":
            names |= {folder + word for word in words if re.fullmatch(r"[\w*]+(\.py|/)", word) and top + word != folder}
    return {name for name in names if name.startswith("alpaca_jax/") and name != "alpaca_jax/"}


def test_the_tree_names_every_file_and_no_other():
    names = named_in_the_tree()
    files = {str(path) for path in Path("alpaca_jax").rglob("*.py") if path.name != "__init__.py"}
    # A folder whose files are not named one by one stands for all of them.
    whole = {name for name in names if name.endswith("/") and not any(n != name and n.startswith(name) for n in names)}
    patterns = {name for name in names if not name.endswith("/")} | {name + "*" for name in whole}

    assert not [name for name in names if name.endswith("/") and not Path(name).is_dir()]
    assert not [pattern for pattern in patterns if not fnmatch.filter(files, pattern) and pattern[:-1] not in whole]
    assert not sorted(file for file in files if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns))


def commands() -> list[tuple[tuple[str, ...], set[str]]]:
    """The programs, with their verbs, of the block under `## Programs`, and the flags that each is said to have."""
    found: list[tuple[tuple[str, ...], set[str]]] = []
    program = ""
    for line in block_after("## Programs"):
        words = line.split()
        if not line.startswith(" "):
            program = words[0]
        named = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
        if not line.startswith(" "):
            found.append(((program, *named[1:]), set()))
        elif named and line.startswith(" " * 10) and not line.strip().startswith(("[", "(", "-")):
            found.append(((program, *named[:1]), set()))
        found[-1][1].update(re.findall(r"--([a-z][a-z_]*)(?=[=\]) .]|$)", line))
    return found


@pytest.mark.parametrize(
    ("command", "flags"), commands(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_the_flags_named_are_those_of_the_program(command, flags):
    program, *verb = command
    ended = subprocess.run(
        [sys.executable, "-m", f"alpaca_jax.{program}", *verb, "--help"], capture_output=True, text=True, check=True
    )
    assert flags
    assert not {flag for flag in flags if not re.search(rf"--{flag}\b", ended.stdout)}


def test_every_program_is_in_the_list():
    assert {command[0] for command, _ in commands()} == set(PROGRAMS)


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (r"(\d+) seed tasks and a tokenizer", len(SEED_TASKS.read_text().splitlines())),
        (r"packs the (\d+) instructions", len(SEED_TASKS.read_text().splitlines())),
        (r"(\d+) user tasks of our own", len(QUESTIONS.read_text().splitlines())),
        (r"answer (\d+) tasks of our own", len(QUESTIONS.read_text().splitlines())),
        (r"(\d+) kinds of fault", len(KINDS)),
        (r"(\d+) known defects", Path("tools/mutations.toml").read_text().count("\n[[")),
        (r"chats, (\w+) templates", WORDS[len(TEMPLATES)]),
    ],
)
def test_what_the_readme_counts(said, count):
    match = re.search(said, README)
    assert match is not None
    assert match[1] == str(count)


@pytest.mark.skipif("### One record, followed" not in README, reason="the page is not there yet")
def test_the_record_that_it_follows(tmp_path):
    page = README[README.index("### One record, followed") : README.index("### The tree")]
    (located,) = (one for one in read_records(SEED_TASKS) if one.line == 104)
    assert repr(located.record.instruction).strip("'") in page
    end = subprocess.run(
        [
            sys.executable,
            "-m",
            "alpaca_jax.prepare",
            f"--input={SEED_TASKS}",
            f"--tokenizer={TOKENIZER}",
            "--seq_len=512",
            f"--out={tmp_path / 'data'}",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    row = open_packed_dataset(tmp_path / "data").source("train")[46]
    tokenizer = load_tokenizer(TOKENIZER)
    ours = row["segment_ids"] == 1
    assert [tokenizer.piece(int(id)) for id in row["tokens"][ours][-8:]] == [
        ":",
        "P",
        "ab",
        "lo",
        " P",
        "ic",
        "ass",
        "o",
    ]
    ids = [*row["tokens"][ours].tolist(), int(row["targets"][ours][-1])]
    assert len(ids) == 42
    assert " ".join(map(str, ids[-20:])) in re.sub(r" +", " ", page)
    assert row["loss_mask"][ours].tolist() == [False] * 33 + [True] * 8
    counts = json.loads(end.stdout)
    assert f"{counts['tokens']:,} tokens, go into {counts['rows']} rows" in page


def test_every_template_is_named():
    line = README[README.index("**Templates**") :].split("\n\n")[0]
    assert all(f"`{name}`" in line for name in TEMPLATES)


def test_every_link_into_the_repository_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert not [link for link in links if "://" not in link and not Path(link).exists()]
