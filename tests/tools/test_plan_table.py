"""The README's table of plans: a row for everything that is shipped; its tool keeps the rows that it does not plan."""

import importlib.util
from pathlib import Path

import pytest

from alpaca_jax.planning.shipped import shipped_pairs
from alpaca_jax.support.errors import UserError

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("plan_table", ROOT / "tools/plan_table.py")
plan_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plan_table)


def test_the_readme_has_a_row_for_every_configuration_and_target():
    path = ROOT / "README.md"
    rows = plan_table.read_rows(path.read_text(), path)
    configs = ROOT / "configs"
    assert list(rows) == sorted(shipped_pairs(configs, "gpu") + shipped_pairs(configs, "tpu"))
    assert all(line.count("|") == plan_table.HEADER.splitlines()[0].count("|") for line in rows.values())
    assert all(line.split("|")[3].strip() == "yes" for line in rows.values())


def test_rows_go_between_the_markers_and_nothing_else_changes():
    path = Path("text.md")
    text = f"before\n{plan_table.BEGIN}\nold\n{plan_table.END}\nafter\n"
    rows = {("a", "x"): "| `a` | `x` | yes |", ("b", "y"): "| `b` | `y` | no |"}
    written = plan_table.with_rows(text, rows, path)
    assert plan_table.read_rows(written, path) == rows
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert plan_table.with_rows(written, rows, path) == written


def test_a_text_without_markers_is_refused():
    with pytest.raises(UserError, match=r"text\.md: expected the lines"):
        plan_table.read_rows(f"{plan_table.END} {plan_table.BEGIN}", Path("text.md"))
