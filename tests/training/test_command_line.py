"""The configuration on the command line: changes take effect, mistakes get one line that says what is meant."""

from pathlib import Path

import pytest

from alpaca_jax.support.errors import UserError
from alpaca_jax.training.command_line import read_config, split_config_flags
from alpaca_jax.training.config import default_config, validate

TINY = "configs/tiny.py"


def test_values_are_changed_by_type():
    changes = ["--config.train.steps=7", "--config.optimizer.learning_rate=1e-4", "--config.data.path=x/y"]
    config = read_config(f"{TINY}:cpu", changes)
    assert (config.train.steps, config.optimizer.learning_rate, config.data.path) == (7, 1e-4, "x/y")
    assert config.mesh.platform == "cpu"


def test_flags_are_told_apart():
    arguments = ["--workdir=w", "--config.train.steps", "3", "--config=c.py", "--config.data.seed=1"]
    assert split_config_flags(arguments) == (
        ["--workdir=w", "--config=c.py"],
        ["--config.train.steps=3", "--config.data.seed=1"],
    )


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (TINY, ["--config.train.stpes=3"], "[Dd]id you mean 'train.steps'"),
        (TINY, ["--config.steps=3"], "unknown|known name"),
        (TINY, ["--config.train.steps=many"], r"config\.train\.steps: expected a whole number; found 'many'"),
        (TINY, ["--config.data.seed=1", "--config.train.steps=1.5"], r"config\.train\.steps: .*1\.5"),
        (TINY, ["--config.optimizer.learning_rate=fast"], r"optimizer\.learning_rate"),
        (f"{TINY}:h100x9", [], "target.*cpu"),
        ("configs/absent.py", [], "no file"),
        ("configs", [], "no file"),
        ("README.md", [], "README.md: .*does not end in .py"),
        ("tests/conftest.py", [], "no attribute 'get_config'"),
    ],
)
def test_mistakes_are_refused(config: str, changes: list[str], says: str):
    with pytest.raises(UserError, match=says) as caught:
        read_config(config, changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.batch_rows", 0),
        ("train.epochs", 0.0),
        ("train.epochs", float("inf")),
        ("optimizer.clip_norm", float("nan")),
        ("train.microbatches", 5),
        ("model.compute_dtype", "float16"),
        ("model.remat", "dot"),
        ("optimizer.schedule", "cosin"),
        ("optimizer.b2", 1.0),
        ("optimizer.weight_decay", float("inf")),
        ("optimizer.eps", float("inf")),
        ("train.seed", 2**32),
        ("samples.instructions", (1, 2)),
        ("samples.instructions", ("",)),
        ("optimizer.warmup_fraction", 1.5),
        ("checkpoint.every", 0),
        ("data.path", ""),
    ],
)
def test_values_that_no_run_could_use_are_refused(key: str, value: object):
    config = default_config()
    config.data.path = "somewhere"
    validate(config)
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=key):
        validate(config)


def test_a_misspelt_key_in_a_file_is_refused(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs.tiny import get_config as tiny\ndef get_config():\n  c = tiny()\n  c.train.stpes = 1\n"
    )
    with pytest.raises(UserError, match=r"Did you mean.*steps"):
        read_config(str(file), [])
    file.write_text("def get_config():\n  return {}\n")
    with pytest.raises(UserError, match="found a dict"):
        read_config(str(file), [])
    tiny = "from configs.tiny import get_config as tiny\n"
    file.write_text(f"{tiny}def get_config():\n  c = tiny()\n  c.train.steps = None\n  return c\n")
    with pytest.raises(UserError, match=r"found None for train\.steps"):
        read_config(str(file), [])
    file.write_text("from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict({'train': 3})\n")
    with pytest.raises(UserError, match=r"a changed default_config.*found None for checkpoint\.every"):
        read_config(str(file), [])


def test_there_are_at_most_eighty_keys():
    assert sum(len(section) for section in default_config().values()) <= 80
