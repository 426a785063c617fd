"""The straight line through the code: imports point one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path("alpaca_jax")

# A package may import those before it, itself, and nothing else of ours; programs may import everything.
ORDER = [
    "support",
    "data",
    "remote",
    "self_instruct",
    "parallel",
    "model",
    "checkpoint",
    "generation",
    "training",
    "planning",
    "convert",
    "serving",
    "evaluation",
]
# Parts that do not meet although they stand in a line.
NEVER = {
    ("parallel", "data"),
    ("model", "data"),
    ("convert", "training"),
    ("convert", "generation"),
    ("convert", "planning"),
    ("evaluation", "training"),
    ("evaluation", "planning"),
    ("evaluation", "convert"),
    ("serving", "training"),
    ("serving", "planning"),
    ("serving", "convert"),
    ("serving", "evaluation"),
}

# Packages of extras, and the modules that may import them.
OPTIONAL = {
    "torch": {"alpaca_jax/convert/torch_files.py"},
    "transformers": {"alpaca_jax/convert/verify.py"},
    "wandb": {"alpaca_jax/training/wandb_process.py"},
    "prometheus_client": {"alpaca_jax/serving/metrics.py"},
    "uvicorn": {"alpaca_jax/serving/server.py"},
    "regex": {"alpaca_jax/serving/word_list.py", "alpaca_jax/serving/held_text.py"},
    "pydantic": {"alpaca_jax/serving/schema.py", "alpaca_jax/evaluation/annotate_app.py"},
    "gradio": {f"alpaca_jax/serving/{name}.py" for name in ("demo", "demo_page", "demo_panel")},
    "statsmodels": {"alpaca_jax/evaluation/statistics.py", "alpaca_jax/evaluation/ranking.py"},
    "krippendorff": {"alpaca_jax/evaluation/statistics.py"},
    "spacy": {"alpaca_jax/evaluation/diversity_verbs.py"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_there_is_something_to_look_at():
    assert len(FILES) > 40
    assert {path.parts[1] for path in FILES if len(path.parts) > 2} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path):
    programs = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    package = path.parts[1] if len(path.parts) > 2 else None
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "alpaca_jax" or len(parts) == 1:
            continue
        assert parts[1] not in programs, f"{path} imports the program {name}"
        if package:
            assert ORDER.index(parts[1]) <= ORDER.index(package), f"{path} imports {name}"
            assert (package, parts[1]) not in NEVER, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_is_imported_where(path: Path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"tensorflow", "pickle"}
    for package in roots & OPTIONAL.keys():
        assert str(path) in OPTIONAL[package], f"{path} imports {package}"
    if path.parts[1] in ("data", "support"):
        assert not roots & {"jax", "flax", "optax", "orbax"}
