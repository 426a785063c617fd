"""Importing a Hugging Face folder: every bit arrives, and what is damaged or not supported is refused in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_llama import CONFIG, byte_tokens, random_tensors

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.convert.names import correspondences
from alpaca_jax.model.definition import define

Write = Callable[..., Path]
Refusal = Callable[[Path], str]


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


def test_provenance_names_each_file_with_its_hash(write_folder: Write, tmp_path: Path) -> None:
    folder = import_checkpoint(write_folder(random_tensors(np.float32), shards=2), tmp_path / "out")
    assert folder.provenance["kind"] == "huggingface"
    assert [file["name"] for file in folder.provenance["files"]] == [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert all(len(file["sha256"]) == 64 for file in folder.provenance["files"])


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


def test_a_tied_model_with_another_head_is_refused(write_folder: Write, refusal: Refusal) -> None:
    source = write_folder(random_tensors(np.float32), tie_word_embeddings=True)
    assert "lm_head.weight" in refusal(source)


_LLAMA3_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mistral"}, "model_type: expected 'llama'; found 'mistral'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": _LLAMA3_SCALING}, "rope_scaling"),
        ({"rope_parameters": _LLAMA3_SCALING | {"rope_theta": 5e5}}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"rope_scaling": {"rope_type": ["default"]}}, "rope_scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_size": "40"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**12}, "model.layers.3.input_layernorm.weight"),
        ({"num_hidden_layers": 2}, "model.layers.2."),
        ({"num_key_value_heads": 4}, "num_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"head_dim": 16}, "self_attn.q_proj.weight"),
        ({"vocab_size": 262}, "embed_tokens.weight: expected shape (262, 40); found (261, 40)"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ],
)
def test_a_configuration_that_is_refused(
    changes: dict[str, Any], named: str, write_folder: Write, refusal: Refusal
) -> None:
    line = refusal(write_folder(random_tensors(np.float32), **changes))
    assert named in line


def _truncate(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _truncate_in_header(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def _lie_about_lengths(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"shape":[261,40]', b'"shape":[999,40]', 1))
    assert file.read_bytes() != content


def _escape(folder: Path) -> None:
    save_file({"model.norm.weight": np.ones(40, np.float32)}, folder.parent / "secret.safetensors")
    _edit_index(folder, "model.norm.weight", "../secret.safetensors")


def _escape_absolutely(folder: Path) -> None:
    _edit_index(folder, "model.norm.weight", "/etc/passwd")


def _name_a_file_that_is_not_there(folder: Path) -> None:
    _edit_index(folder, "model.norm.weight", "model-00003-of-00002.safetensors")


def _name_a_tensor_that_is_not_there(folder: Path) -> None:
    _edit_index(folder, "model.layers.7.mlp.up_proj.weight", "model-00001-of-00002.safetensors")


def _empty_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def _pickled_weights(folder: Path) -> None:
    _no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _config_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def _config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _metas_folder(folder: Path) -> None:
    (folder / "config.json").rename(folder / "params.json")


def _edit_index(folder: Path, name: str, file: str) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][name] = file
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, "model-00002-of-00002.safetensors"),
        (_truncate_in_header, "model-00002-of-00002.safetensors"),
        (_lie_about_lengths, "model-00001-of-00002.safetensors"),
        (_escape, "the same folder; found '../secret.safetensors'"),
        (_escape_absolutely, "the same folder; found '/etc/passwd'"),
        (_name_a_file_that_is_not_there, "model-00003-of-00002.safetensors"),
        (_name_a_tensor_that_is_not_there, "model.layers.7.mlp.up_proj.weight"),
        (_empty_index, "weight_map"),
        (_no_weights, "model.safetensors.index.json"),
        (_pickled_weights, "pytorch_model.bin"),
        (_no_tokenizer, "tokenizer.json"),
        (_config_is_not_json, "config.json"),
        (_config_is_a_list, "config.json"),
        (_no_config, "config.json"),
        (_metas_folder, "Meta"),
    ],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], named: str, write_folder: Write, refusal: Refusal
) -> None:
    folder = write_folder(random_tensors(np.float32), shards=2)
    damage(folder)
    assert named in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_a_tensor_that_is_not_finite_is_named(dtype: Any, value: float, write_folder: Write, refusal: Refusal) -> None:
    tensors = random_tensors(dtype)
    tensors["model.layers.1.mlp.up_proj.weight"][55, 39] = value
    assert "model.layers.1.mlp.up_proj.weight" in refusal(write_folder(tensors))


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"model.layers.1.self_attn.k_proj.weight": None}, "model.layers.1.self_attn.k_proj.weight: expected it among"),
        ({"lm_head.weight": None}, "lm_head.weight"),
        ({"model.layers.0.self_attn.q_norm.weight": np.ones(8, np.float32)}, "model.layers.0.self_attn.q_norm.weight"),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(48, np.float32)}, "model.layers.0.self_attn.q_proj.bias"),
        ({"model.norm.weight": np.ones(40, np.int8)}, "model.norm.weight: expected a type among F32, F16, BF16"),
        ({"model.norm.weight": np.ones((1, 40), np.float32)}, "model.norm.weight: expected shape (40,)"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray | None], named: str, write_folder: Write, refusal: Refusal
) -> None:
    changed = random_tensors(np.float32) | tensors
    assert named in refusal(write_folder({name: t for name, t in changed.items() if t is not None}))


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(write_folder: Write, refusal: Refusal) -> None:
    tensors = random_tensors(np.float32)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:250].copy()
    assert "258" in refusal(write_folder(tensors, vocab_size=250))


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "model.safetensors"])
def test_what_is_no_checkpoint_is_refused(name: str, tmp_path: Path, refusal: Refusal) -> None:
    if name == "notes.txt":
        (tmp_path / name).write_text("no model")
    if name == "model.safetensors":
        save_file({"x": np.ones(1)}, tmp_path / name)
    assert str(tmp_path / name) in refusal(tmp_path / name)


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


def test_a_full_disk_is_refused_before_any_work(
    write_folder: Write, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_tensors(np.float32)
    source, needed = write_folder(tensors), sum(tensor.nbytes for tensor in tensors.values())
    usage = type(shutil.disk_usage(source))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, needed - 1))
    assert "room" in refusal(source)


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
