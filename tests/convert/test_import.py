"""Importing a Hugging Face folder: every bit arrives. What is refused: see `test_import_refusals.py`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from tiny_llama import CONFIG, byte_tokens, random_tensors

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.convert.names import correspondences
from alpaca_jax.model.definition import define
from alpaca_jax.support.hashing import sha256_file

Write = Callable[..., Path]


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_every_bit_comes_back(dtype: Any, shards: int, write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(dtype)
    folder = import_checkpoint(write_folder(tensors, shards), tmp_path / "out")
    back = _their_tensors(folder, dtype)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].tobytes() == tensor.tobytes(), name


def test_the_vocabulary_is_padded_with_zeros(write_folder: Write, tmp_path: Path) -> None:
    folder = import_checkpoint(write_folder(random_tensors(np.float32)), tmp_path / "out")
    parameters = _parameters(folder, np.float32)
    assert parameters["embedding"].shape == (320, 40)
    assert parameters["head"].shape == (40, 320)
    assert not np.asarray(parameters["embedding"][261:]).any()
    assert not np.asarray(parameters["head"][:, 261:]).any()


def test_layers_of_different_types_meet_in_float32(write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    for name in tensors:
        if "layers.0." in name:
            tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
        if "layers.1." in name:
            tensors[name] = tensors[name].astype(np.float16)
    back = _their_tensors(import_checkpoint(write_folder(tensors), tmp_path / "out"), np.float32)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor.astype(np.float32), name)


def test_provenance_names_the_certificate(write_folder: Write, tmp_path: Path) -> None:
    folder = import_checkpoint(write_folder(random_tensors(np.float32)), tmp_path / "out")
    assert folder.provenance == {"kind": "huggingface", "certificate": sha256_file(folder.path / "certificate.json")}


def test_the_tokenizer_comes_along(write_folder: Write, tmp_path: Path) -> None:
    folder = import_checkpoint(write_folder(random_tensors(np.float32)), tmp_path / "out")
    tokens = byte_tokens()
    assert folder.tokenizer().encode_response("hé") == [tokens.index(byte) for byte in ("h", "Ã", "©")]
    assert folder.tokenizer().eos_id == tokens.index("</s>")


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": None, "hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 50_000}},
        {"rope_scaling": None, "hidden_act": "swish", "pretraining_tp": 1, "attention_bias": False},
        {"rope_theta": 50_000, "architectures": ["LLaMAForCausalLM"], "attention_dropout": 0.1, "use_cache": True},
    ],
)
def test_descriptions_that_mean_a_plain_llama(changes: dict[str, Any], write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    if "num_attention_heads" in changes:  # 5 heads of 40 / 5
        for name in [name for name in tensors if "self_attn" in name]:
            tensors[name] = np.zeros((40, 40), np.float32)
    folder = import_checkpoint(write_folder(tensors, **changes), tmp_path / "out")
    assert folder.model.head_dim == 8
    assert folder.model.rope_theta == (50_000 if "50000" in json.dumps(changes) else 10_000)


def test_rotary_buffers_of_old_files_are_left_out(write_folder: Write, tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    import_checkpoint(write_folder(random_tensors(np.float32) | buffer), tmp_path / "out")


def test_a_tied_model_may_hold_its_head(write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    folder = import_checkpoint(write_folder(tensors, tie_word_embeddings=True), tmp_path / "out")
    assert "head" not in _parameters(folder, np.float32)


def test_an_existing_folder_is_left_alone(write_folder: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    command = [sys.executable, "-m", "alpaca_jax.convert", "import"]
    flags = [f"--source={write_folder(random_tensors(np.float32))}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("tied", [False, True])
def test_the_table_covers_the_whole_tree(tied: bool) -> None:
    model = read_model_config(CONFIG | {"tie_word_embeddings": tied}, "config.json")
    paths = jax.tree_util.tree_leaves_with_path(define(model).shapes)
    tree = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in paths}
    assert tree == {
        row.ours: ((model.num_layers,) if row.stacked else ()) + row.our_shape(model) for row in correspondences(model)
    }


def _parameters(folder: CheckpointFolder, dtype: Any) -> Any:
    definition = define(folder.model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: place, definition.shapes)
    with Store(folder.path) as store:
        return store.restore_parameters(abstract_parameters(definition.shapes, places, dtype))


def _their_tensors(folder: CheckpointFolder, dtype: Any) -> dict[str, np.ndarray]:
    """The imported parameters, taken back through the table."""
    tree, result = _parameters(folder, dtype), {}
    for row in correspondences(folder.model):
        node = tree
        for key in row.ours.split("."):
            node = node[key]
        for slice_, name in zip(node if row.stacked else [node], row.names(folder.model), strict=True):
            result[name] = np.ascontiguousarray(row.to_theirs(np.asarray(slice_), folder.model))
    return result
