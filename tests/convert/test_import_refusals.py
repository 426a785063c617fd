"""A Hugging Face folder that is damaged, or not supported, is refused in one line, and nothing is left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_llama import random_tensors

Write = Callable[..., Path]
Refusal = Callable[[Path], str]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma"}, "model_type: expected 'llama' or 'mistral' or 'qwen2' or 'qwen3'; found 'gemma'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling, type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"rope_scaling": {"rope_type": ["default"]}}, "rope_scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"attention_bias": True}, "model.layers.0.self_attn.q_proj.bias: expected it among the tensors"),
        ({"mlp_bias": True}, "model.layers.0.mlp.gate_proj.bias: expected it among the tensors"),
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
        ({"model.norm.weight": np.ones(40, np.int8)}, "model.norm.weight: expected float32, float16 or bfloat16"),
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


def test_a_full_disk_is_refused_before_any_work(
    write_folder: Write, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_tensors(np.float32)
    source, needed = write_folder(tensors), sum(tensor.nbytes for tensor in tensors.values())
    usage = type(shutil.disk_usage(source))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, needed - 1))
    assert "room" in refusal(source)


def test_a_tied_model_with_another_head_is_refused(write_folder: Write, refusal: Refusal) -> None:
    source = write_folder(random_tensors(np.float32), tie_word_embeddings=True)
    assert "lm_head.weight" in refusal(source)
