"""A tiny LLaMA in Hugging Face's folder form, and the program run in this process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from tiny_llama import CONFIG, byte_tokens

from alpaca_jax.convert.__main__ import main
from alpaca_jax.support.program import run_program


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Hugging Face folder: the configuration with changes, tensors, and a tokenizer."""

    def write(tensors: dict[str, np.ndarray], shards: int = 1, name: str = "source", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE({token: id for id, token in enumerate(byte_tokens())}, [])
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "</s>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        if shards == 1:
            save_file(tensors, folder / "model.safetensors")
            return folder
        weight_map = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
        for file in set(weight_map.values()):
            save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], str]:
    """Runs `convert import` on what must be refused; gives the one line, after a look that nothing is left behind."""

    def run(source: Path) -> str:
        (tmp_path / "place").mkdir()
        arguments = ["import", f"--source={source}", f"--out={tmp_path / 'place' / 'out'}"]
        monkeypatch.setattr(sys, "argv", ["convert", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_program(main)
        assert ended.value.code == 2
        assert list((tmp_path / "place").iterdir()) == []
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("importing tensors")]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return run
