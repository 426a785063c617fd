"""A Meta folder gives the tensors and logits of the Hugging Face folder of the same weights, and of Meta's own form.

`meta_folder.py` writes the form and computes the model from Meta's definition; transformers writes the other form.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import meta_folder
import numpy as np
import pytest
import tiktoken_file
import torch
import transformers

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.convert.meta_params import MetaParams
from alpaca_jax.convert.names import correspondences
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.model.definition import define
from alpaca_jax.support.errors import UserError

Refusal = Callable[[Path], str]
Params = dict[str, Any]

_LLAMA_1 = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32, "norm_eps": 1e-6, "vocab_size": -1}
_LLAMA_2 = _LLAMA_1 | {"n_heads": 16, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "dim": 96}
_LLAMA_3 = _LLAMA_2 | {"vocab_size": 2056, "rope_theta": 500_000.0, "multiple_of": 16}
_LLAMA_3_1 = _LLAMA_3 | {"use_scaled_rope": True}
_FEW_HEADS = {"n_heads": 4, "n_kv_heads": 2}
_VOCABULARY = 2056  # divisible by eight shards, not by 64
# The sizes, the longest text, and the axis along which the embedding is divided.
_FAMILY: dict[str, tuple[Params, int, int]] = {
    "llama": (_LLAMA_1, 2048, 1),
    "llama2": (_LLAMA_2, 4096, 1),
    "llama3": (_LLAMA_3, 8192, 0),
    "llama3.1": (_LLAMA_3_1, 131_072, 0),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("name", _FAMILY)
def test_tensors_equal_the_hugging_face_form(name: str, shards: int, dtype: torch.dtype, tmp_path: Path) -> None:
    params, positions, embedding_axis = _FAMILY[name]
    tensors = {key: t.to(dtype) for key, t in meta_folder.random_model(params, _VOCABULARY).items()}
    folder = meta_folder.write(tmp_path / "meta", params, tensors, shards, embedding_axis)
    _their_model(params, tensors, positions).save_pretrained(tmp_path / "theirs")
    ours, theirs = open_source(folder), open_source(tmp_path / "theirs")
    assert ours.model == theirs.model
    assert ours.tensors == theirs.tensors
    assert {tensor for row in correspondences(ours.model) for tensor in row.names(ours.model)} == ours.tensors.keys()
    for tensor in ours.tensors:
        assert ours.read(tensor).tobytes() == theirs.read(tensor).tobytes(), tensor
    assert [file.name for file in ours.files] == ["params.json", *(f"consolidated.{n:02}.pth" for n in range(shards))]


@pytest.mark.parametrize(
    ("name", "changes", "shards", "length"), [("llama", {}, 8, 1024), ("llama3.1", _FEW_HEADS, 2, 2048)]
)
def test_logits(name: str, changes: Params, shards: int, length: int, tmp_path: Path) -> None:
    params, positions, embedding_axis = _FAMILY[name]
    params = params | changes
    tensors = meta_folder.random_model(params, _VOCABULARY)
    folder = meta_folder.write(tmp_path / "meta", params, tensors, shards, embedding_axis)
    _write_tokenizer(folder, name)
    tokens_L = np.random.default_rng(0).integers(_VOCABULARY, size=length)
    metas_LV = meta_folder.logits(params, tensors, torch.from_numpy(tokens_L)).numpy()
    assert metas_LV.std() > 0.3, "the logits are too small for the tolerance to mean anything"
    with torch.no_grad():
        theirs_LV = _their_model(params, tensors, positions)(torch.from_numpy(tokens_L[None])).logits[0].numpy()
    ours_LV = _our_logits(import_checkpoint(folder, tmp_path / "ours").path, tokens_L)
    assert np.abs(ours_LV - metas_LV).max() < 1e-4
    assert np.abs(ours_LV - theirs_LV).max() < 1e-4


def test_an_added_padding_row_survives(tmp_path: Path) -> None:
    tensors = meta_folder.random_model(_LLAMA_1, 2057)
    folder = meta_folder.write(tmp_path / "meta", _LLAMA_1, tensors)
    _write_tokenizer(folder, "llama")
    imported = import_checkpoint(folder, tmp_path / "ours")
    assert imported.model.vocab_size == 2057
    tokens_L = np.array([2056, 5, 2056])
    metas_LV = meta_folder.logits(_LLAMA_1, tensors, torch.from_numpy(tokens_L)).numpy()
    assert np.abs(_our_logits(imported.path, tokens_L) - metas_LV).max() < 1e-4


@pytest.mark.parametrize("stored", [False, True])
def test_tied_embeddings(stored: bool, tmp_path: Path) -> None:
    tensors = meta_folder.random_model(_LLAMA_3_1, _VOCABULARY)
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    if not stored:
        del tensors["output.weight"]
    folder = meta_folder.write(tmp_path / "meta", _LLAMA_3_1, tensors, shards=2, embedding_axis=0)
    assert open_source(folder).model.tied_embeddings


def test_tokenizers_of_both_kinds(tmp_path: Path) -> None:
    tensors = meta_folder.random_model(_LLAMA_1, _VOCABULARY)
    folder = meta_folder.write(tmp_path / "meta", _LLAMA_1, tensors)
    source = open_source(folder)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match=r"tokenizer\.model in it or beside it"):
        source.tokenizer(tmp_path / "scratch")
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.model")  # as Meta's download has it, beside the model's folder
    assert source.tokenizer(tmp_path / "scratch").vocab_size == 2048
    tiktoken_file.write(folder / "tokenizer.model")
    tokenizer = source.tokenizer(tmp_path / "scratch")
    assert tokenizer.vocab_size == len(tiktoken_file.ranks()) + 256
    assert tokenizer.decode(tokenizer.encode_response("naïve 123")) == "naïve 123"


@pytest.mark.parametrize(
    ("published", "positions", "factor", "hidden"),
    [
        ({"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "norm_eps": 1e-6}, 2048, None, 11008),
        ({"dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 256, "norm_eps": 1e-5}, 2048, None, 22016),
        ({"dim": 5120, "n_layers": 40, "n_heads": 40, "multiple_of": 256, "norm_eps": 1e-5}, 4096, None, 13824),
        (
            {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096}
            | {"ffn_dim_multiplier": 1.3, "norm_eps": 1e-5},
            4096,
            None,
            28672,
        ),
        ({"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "rope_theta": 1e6}, 16_384, None, 11008),
        (_LLAMA_3 | {"dim": 4096, "n_heads": 32, "multiple_of": 1024}, 8192, None, 14336),
        (_LLAMA_3_1 | {"dim": 4096, "n_heads": 32, "multiple_of": 1024, "n_layers": 32}, 131_072, 8.0, 14336),
        (
            _LLAMA_3_1 | {"dim": 2048, "n_heads": 32, "multiple_of": 256, "n_layers": 16, "ffn_dim_multiplier": 1.5},
            131_072,
            32.0,
            8192,
        ),
        (
            _LLAMA_3_1 | {"dim": 3072, "n_heads": 24, "multiple_of": 256, "n_layers": 28, "ffn_dim_multiplier": 1.0},
            131_072,
            32.0,
            8192,
        ),
    ],
    ids=["1 7B", "1 65B", "2 13B", "2 70B", "code 7B", "3 8B", "3.1 8B", "3.2 1B", "3.2 3B"],
)
def test_what_the_published_files_leave_out(
    published: Params, positions: int, factor: float | None, hidden: int, tmp_path: Path
) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps(published | {"max_batch_size": 32, "quantization_args": None}))
    model = MetaParams.read(path).model("it", vocab_size=32_000, tied_embeddings=False)
    assert model.max_position_embeddings == positions
    assert getattr(model.rope_scaling, "factor", None) == factor
    assert model.intermediate_size == hidden


def _edit_params(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        params = json.loads((folder / "params.json").read_text()) | changes
        params = {key: value for key, value in params.items() if value != "missing"}
        (folder / "params.json").write_text(json.dumps(params))

    return edit


def _edit_shard(number: int, **changes: torch.Tensor | None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / f"consolidated.{number:02}.pth"
        tensors = torch.load(file) | {f"{name.replace('__', '.')}.weight": t for name, t in changes.items()}
        torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)

    return edit


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "params.json").unlink(), "params.json"),
        (lambda folder: (folder / "params.json").write_text("[]"), "a JSON object"),
        (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model in it or beside it"),
        (lambda folder: (folder / "consolidated.01.pth").unlink(), "2 shards up to consolidated.01.pth"),
        (lambda folder: (folder / "consolidated.00.pth").unlink(), "consolidated.00.pth among its shards"),
        (lambda folder: [file.unlink() for file in folder.glob("*.pth")], "no consolidated.*.pth"),
        (
            lambda folder: shutil.copy(folder / "consolidated.00.pth", folder / "consolidated.02.pth"),
            "2 shards up to consolidated.01.pth",
        ),
        (lambda folder: (folder / "consolidated.01.pth").write_bytes(b"PK"), "consolidated.01.pth"),
        (_edit_params(moe={"num_experts": 8}), "params.json, moe"),
        (_edit_params(lora_args={"rank": 16, "scale": 2.0}), "params.json, lora_args"),
        (_edit_params(quantization_args={"group_size": 32}), "params.json, quantization_args"),
        (_edit_params(vision_chunk_size=448), "params.json, vision_chunk_size"),
        (_edit_params(dim="missing"), "params.json, dim"),
        (_edit_params(dim="64"), "params.json, dim"),
        (_edit_params(n_layers=0), "params.json, n_layers"),
        (_edit_params(n_heads=7), "params.json, dim"),
        (_edit_params(norm_eps=float("nan")), "params.json, norm_eps"),
        (_edit_params(use_scaled_rope="yes"), "params.json, use_scaled_rope"),
        (_edit_params(vocab_size=1000), "tok_embeddings.weight: expected shape (1000, 64); found (2056, 64)"),
        (_edit_params(n_layers=3), "layers.2."),
        (_edit_params(n_layers=1), "layers.1."),
        (_edit_params(multiple_of=512), "layers.0.feed_forward.w1.weight: expected shape (512, 64)"),
        (_edit_params(n_kv_heads=1), "n_kv_heads: expected a multiple of the 2 shards"),
        (_edit_shard(1, norm=torch.zeros(64)), "norm.weight: expected the same numbers in each shard"),
        (_edit_shard(1, norm=torch.zeros(32)), "(32,) in consolidated.01.pth"),
        (_edit_shard(1, norm=torch.zeros(64).half()), "float16 (64,) in consolidated.01.pth"),
        (_edit_shard(1, norm=None), "norm.weight: expected it in each shard; found none in consolidated.01.pth"),
        (_edit_shard(0, norm=None), "norm.weight: expected it in each shard; found none in consolidated.00.pth"),
        (_edit_shard(0, layers__0__attention__wq=torch.full((32, 64), torch.inf)), "layers.0.attention.wq.weight"),
        (_edit_shard(0, tok_embeddings=torch.tensor(1.0)), "tok_embeddings.weight"),
    ],
)
def test_what_is_refused(damage: Callable[[Path], Any], named: str, refusal: Refusal, tmp_path: Path) -> None:
    tensors = meta_folder.random_model(_LLAMA_1, _VOCABULARY)
    folder = meta_folder.write(tmp_path / "meta", _LLAMA_1, tensors, shards=2)
    _write_tokenizer(folder, "llama")
    damage(folder)
    assert named in refusal(folder)


@pytest.mark.parametrize("name", ["consolidated.00.pth", "params.json"])
def test_a_file_of_the_folder_points_to_the_folder(name: str, refusal: Refusal, tmp_path: Path) -> None:
    folder = meta_folder.write(tmp_path / "meta", _LLAMA_1, meta_folder.random_model(_LLAMA_1, _VOCABULARY))
    assert f"Give the folder that holds it, {folder}" in refusal(folder / name)


def _write_tokenizer(folder: Path, name: str) -> None:
    if name.startswith("llama3"):
        tiktoken_file.write(folder / "tokenizer.model")
    else:
        shutil.copy(TOKENIZER, folder / "tokenizer.model")


def _their_model(params: Params, tensors: meta_folder.Tensors, positions: int) -> transformers.LlamaForCausalLM:
    """The same weights in transformers, which wants a head's channels 0, 2, 4, … before 1, 3, 5, …."""
    heads, kv_heads = params["n_heads"], params.get("n_kv_heads", params["n_heads"])
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=params["dim"],
        intermediate_size=meta_folder.intermediate_size(params),
        num_hidden_layers=params["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=params["norm_eps"],
        rope_parameters={"rope_theta": params.get("rope_theta", 10_000.0)}
        | (scaling if params.get("use_scaled_rope") else {"rope_type": "default"}),
        max_position_embeddings=positions,
    )
    head_dim = params["dim"] // heads
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    names = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    parts = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    parts |= {f"attention.w{letter}": f"self_attn.{letter}_proj" for letter in "qkvo"}
    parts |= {"feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj"}
    state = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("layers."):
            _, layer, part = stem.split(".", 2)
            if part in ("attention.wq", "attention.wk"):
                tensor = tensor.view(-1, head_dim, params["dim"])[:, order].reshape(tensor.shape)
            names[stem] = f"model.layers.{layer}.{parts[part]}"
        state[f"{names[stem]}.weight"] = tensor
    model = transformers.LlamaForCausalLM(config).to(tensors["norm.weight"].dtype).eval()
    model.load_state_dict(state)
    return model


def _our_logits(folder: Path, tokens_L: np.ndarray) -> np.ndarray:
    """Logits [L, V] of an imported folder in float32."""
    opened = CheckpointFolder.open(folder)
    definition = define(opened.model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Store(folder) as store:
        places = jax.tree.map(lambda _: place, definition.shapes)
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, places, jnp.float32))

    @jax.jit
    def logits(parameters: Any, tokens_1L: jax.Array) -> jax.Array:
        bound = definition.bind(parameters)
        positions_1L = jnp.arange(tokens_1L.shape[1])[None]
        return bound.logits(bound(tokens_1L, positions_1L, jnp.ones_like(positions_1L)))[0]

    return np.asarray(logits(parameters, jnp.asarray(tokens_L)[None]))[:, : opened.model.vocab_size]
