import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.try_mutations import ROOT, Mutation, read_mutations

ENTRY = """
[[mutation]]
name = '{0}'
file = '{1}'
old = '''{2}'''
new = '''{3}'''
tests = ['tests/data/test_packing.py']
"""
MUTATIONS = read_mutations(ROOT / "tools/mutations.toml")


def run_tool(file: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/try_mutations.py", f"--mutations={file}"]
    return subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


def test_there_are_enough_under_names_of_their_own():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 30


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_code_still_has_what_a_mutation_changes(mutation: Mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_a_defect_is_noticed_and_what_changes_nothing_is_not(tmp_path: Path):
    defect = next(mutation for mutation in MUTATIONS if mutation.name == "targets are not shifted")
    file = tmp_path / "mutations.toml"
    harmless = ENTRY.format("a word of a comment", defect.file, "few enough to be small", "so few that they are small")
    file.write_text(ENTRY.format(defect.name, defect.file, defect.old, defect.new) + harmless)
    before = (ROOT / defect.file).read_bytes()
    done = run_tool(file)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "mutations": 2,
        "noticed": 1,
        "unnoticed": ["a word of a comment"],
    }
    assert "tests/data/test_packing.py::" in done.stdout
    assert (ROOT / defect.file).read_bytes() == before

    file.write_text(ENTRY.format("gone", defect.file, "no such text", "x"))
    done = run_tool(file)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "expected 'no such text' once in alpaca_jax/data/packing.py; found 0 times" in done.stderr
