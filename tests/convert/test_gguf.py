"""Importing a GGUF file: the same parameters as the Hugging Face folder of the same model, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gguf
import jax
import numpy as np
import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tiny_llama import byte_tokens, random_tensors

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert import gguf_file
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import Where, load_tokenizer
from alpaca_jax.model.definition import define
from alpaca_jax.model.rope_scaling import LinearScaling, Llama3Scaling

Write = Callable[..., Path]
Refusal = Callable[[Path], str]

_HEADS, _KV_HEADS, _HEAD_DIM = 6, 2, 8
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_METADATA: dict[str, Any] = {
    "llama.block_count": 3,
    "llama.context_length": 128,
    "llama.embedding_length": 40,
    "llama.feed_forward_length": 56,
    "llama.attention.head_count": _HEADS,
    "llama.attention.head_count_kv": _KV_HEADS,
    "llama.attention.key_length": _HEAD_DIM,
    "llama.attention.value_length": _HEAD_DIM,
    "llama.rope.dimension_count": _HEAD_DIM,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*byte_tokens(), "<extra>", "ab", "01"],
    "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 3, 1, 1],
    "tokenizer.ggml.merges": ["a b", "0 1"],
    "tokenizer.ggml.bos_token_id": 256,
    "tokenizer.ggml.eos_token_id": 257,
    "tokenizer.ggml.add_bos_token": True,
}


@pytest.fixture
def write_gguf(tmp_path: Path) -> Write:
    """Writes a GGUF file from tensors in Hugging Face's names and layouts; metadata of None leaves a key out."""

    def write(tensors: dict[str, np.ndarray], architecture: str = "llama", **changes: Any) -> Path:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in (_METADATA | changes.pop("metadata", {})).items():
            if value is not None:
                _add(writer, key, value)
        for name, tensor in tensors.items():
            writer.add_tensor(_gguf_name(name), _as_stored(name, tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_parameters_equal_those_of_the_hugging_face_folder(
    write_gguf: Write, write_folder: Write, tmp_path: Path
) -> None:
    tensors = random_tensors(np.float32)
    from_gguf = import_checkpoint(write_gguf(tensors), tmp_path / "from_gguf")
    from_folder = import_checkpoint(write_folder(tensors), tmp_path / "from_folder")
    assert from_gguf.model == from_folder.model
    assert from_gguf.provenance["kind"] == "gguf"
    jax.tree.map(np.testing.assert_array_equal, _parameters(from_gguf), _parameters(from_folder))


def test_half_precision_becomes_float32_part_by_part(
    write_gguf: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "_PART_BYTES", 40 * 2 * 7)  # seven rows
    tensors = random_tensors(np.float16)
    parameters = _parameters(import_checkpoint(write_gguf(tensors), tmp_path / "out"))
    wanted = tensors["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(parameters["embedding"][:261], wanted)
    np.testing.assert_array_equal(parameters["final_norm"]["scale"], tensors["model.norm.weight"].astype(np.float32))


def test_without_output_the_embeddings_are_tied(write_gguf: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    del tensors["lm_head.weight"]
    folder = import_checkpoint(write_gguf(tensors), tmp_path / "out")
    assert folder.model.tied_embeddings
    assert "head" not in _parameters(folder)


def test_what_metadata_leaves_out_has_its_usual_value(write_gguf: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    for name in [name for name in tensors if "self_attn" in name]:  # 5 heads of 40 / 5
        tensors[name] = np.zeros((40, 40), np.float32)
    absent = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count")
    metadata = dict.fromkeys(f"llama.{key}" for key in (*absent, "rope.freq_base")) | {"llama.attention.head_count": 5}
    model = import_checkpoint(write_gguf(tensors, metadata=metadata), tmp_path / "out").model
    assert (model.num_heads, model.num_kv_heads, model.head_dim, model.rope_theta) == (5, 5, 8, 10_000.0)


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}, LinearScaling(2.0)),
        ({"llama.rope.scaling.factor": 4.0}, LinearScaling(4.0)),
        ({"llama.rope.scale_linear": 4.0, "llama.rope.scaling.finetuned": True}, LinearScaling(4.0)),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0}, None),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.original_context_length": 64}, None),
    ],
)
def test_linear_scaling(metadata: dict[str, Any], scaling: Any, write_gguf: Write, tmp_path: Path) -> None:
    path = write_gguf(random_tensors(np.float32), metadata=metadata)
    assert import_checkpoint(path, tmp_path / "out").model.rope_scaling == scaling


def _llama3_divisors(factor: float, theta: float) -> np.ndarray:
    """What llama.cpp's conversion writes: 1 for fast turns, `factor` for slow ones, and something between."""
    divisors = []
    for pair in range(_HEAD_DIM // 2):
        wavelength = 2 * np.pi * theta ** (2 * pair / _HEAD_DIM)
        share = np.clip((8192 / wavelength - 1) / (4 - 1), 0, 1)
        divisors.append(1 / ((1 - share) / factor + share))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_divisors_of_llama_3(factor: float, write_gguf: Write, tmp_path: Path) -> None:
    divisors = _llama3_divisors(factor, 5e5)
    assert divisors[0] == 1 < divisors[2] < factor == divisors[3]
    tensors = random_tensors(np.float32) | {"rope_freqs.weight": divisors}
    path = write_gguf(tensors, metadata={"llama.rope.freq_base": 5e5})
    model = import_checkpoint(path, tmp_path / "out").model
    assert model.rope_scaling == Llama3Scaling(factor, 1.0, 4.0, 8192)


def test_two_ways_of_scaling_at_once_are_refused(write_gguf: Write, refusal: Refusal) -> None:
    tensors = random_tensors(np.float32) | {"rope_freqs.weight": _llama3_divisors(8.0, 1e4)}
    assert "rope_freqs.weight: expected one" in refusal(
        write_gguf(tensors, metadata={"llama.rope.scaling.factor": 2.0})
    )


_TEXTS = [
    "",
    "Name two animals that live in the sea.",
    "  two  spaces, a tab\tand\n\nlines ",
    "naïve café, 東京, Привет, 🙂, \x00",
    "12345 + 6789 = 19,134; it's I'VE",
    "</s><s>",
]


def _sentencepiece_metadata(path: Path) -> dict[str, Any]:
    """A SentencePiece model as the metadata of a GGUF file."""
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    ids = {name: getattr(model.trainer_spec, f"{name}_id") for name in ("bos", "eos", "unk")}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in model.pieces],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": ids["bos"],
        "tokenizer.ggml.eos_token_id": ids["eos"],
        "tokenizer.ggml.unknown_token_id": ids["unk"],
        "tokenizer.ggml.add_bos_token": True,
    }


def _tensors_of_vocabulary(size: int) -> dict[str, np.ndarray]:
    tensors = random_tensors(np.float32)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.resize(tensors[name], (size, 40))
    return tensors


def test_a_sentencepiece_tokenizer_is_the_one_it_was_made_from(write_gguf: Write, tmp_path: Path) -> None:
    metadata, original = _sentencepiece_metadata(Path(TOKENIZER)), load_tokenizer(TOKENIZER)
    path = write_gguf(_tensors_of_vocabulary(original.vocab_size), metadata=metadata)
    tokenizer = import_checkpoint(path, tmp_path / "out").tokenizer()
    for where in get_args(Where):
        for ours, theirs in zip(
            tokenizer.encode_batch(_TEXTS, where), original.encode_batch(_TEXTS, where), strict=True
        ):
            assert ours.tolist() == theirs.tolist()
    assert [tokenizer.decode(tokenizer.encode_response(text)) for text in _TEXTS] == _TEXTS
    assert (tokenizer.bos_id, tokenizer.eos_id) == (original.bos_id, original.eos_id)
    assert tokenizer.special_ids == original.special_ids


def test_sentencepiece_with_an_added_token_and_without_a_beginning(write_gguf: Write, tmp_path: Path) -> None:
    metadata = _sentencepiece_metadata(Path(TOKENIZER))
    metadata["tokenizer.ggml.tokens"].append("[PAD]")
    metadata["tokenizer.ggml.scores"].append(-1000.0)
    metadata["tokenizer.ggml.token_type"].append(3)
    metadata |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    path = write_gguf(_tensors_of_vocabulary(2049), metadata=metadata)
    tokenizer = import_checkpoint(path, tmp_path / "out").tokenizer()
    assert tokenizer.vocab_size == 2049
    assert tokenizer.special_ids["[PAD]"] == 2048
    assert tokenizer.encode_prompt("hello") == tokenizer.encode_response("hello")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scores": None}, "tokenizer.ggml.scores: expected a list of float, one for each token"),
        ({"scores": [0.0]}, "tokenizer.ggml.scores"),
        ({"token_type": [1] * 2048}, "tokenizer.ggml.tokens: expected pieces that the SentencePiece library loads"),
        ({"token_type": [9] * 2048}, "tokenizer.ggml.token_type: expected numbers from 1 to 6"),
        ({"precompiled_charsmap": [1, 2]}, "tokenizer.ggml.precompiled_charsmap"),
        ({"bos_token_id": None}, "tokenizer.ggml.bos_token_id"),
    ],
)
def test_sentencepiece_that_is_refused(change: dict[str, Any], named: str, write_gguf: Write, refusal: Refusal) -> None:
    changes = {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    metadata = _sentencepiece_metadata(Path(TOKENIZER)) | changes
    assert named in refusal(write_gguf(_tensors_of_vocabulary(2048), metadata=metadata))


def test_llama_3_cuts_numbers_in_threes_and_takes_whole_tokens(write_gguf: Write, tmp_path: Path) -> None:
    tokens = [*byte_tokens(), "<extra>", "xyz", "01"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["0 1"],
        "tokenizer.ggml.add_bos_token": None,  # which then is added
    }
    tokenizer = import_checkpoint(
        write_gguf(random_tensors(np.float32), metadata=metadata), tmp_path / "out"
    ).tokenizer()
    # No merge leads to "xyz", and none over the cut after three digits.
    expected = [tokens.index(token) for token in ("xyz", "2", "2", "0", "01", "Ġ", "x", "y", "z")]
    assert tokenizer.encode_response("xyz22001 xyz") == expected
    assert tokenizer.encode_prompt("xyz")[0] == 256


def test_the_tokenizer(write_gguf: Write, tmp_path: Path) -> None:
    tokenizer = import_checkpoint(write_gguf(random_tensors(np.float32)), tmp_path / "out").tokenizer()
    tokens: list[str] = _METADATA["tokenizer.ggml.tokens"]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (261, 256, 257)
    assert tokenizer.encode_prompt("ab") == [256, tokens.index("ab")]
    # "0 1" is a merge, but digits are cut apart before merging.
    assert tokenizer.encode_response("01ab é") == [tokens.index(token) for token in ("0", "1", "ab", "Ġ", "Ã", "©")]
    assert tokenizer.decode(tokenizer.encode_response("01ab é\n")) == "01ab é\n"


@pytest.mark.parametrize(("kind", "text"), [(3, "a"), (4, "<extra>a")])
def test_control_tokens_are_no_text_and_user_defined_ones_are(
    kind: int, text: str, write_gguf: Write, tmp_path: Path
) -> None:
    metadata = {"tokenizer.ggml.token_type": [1] * 256 + [3, 3, kind, 1, 1]}
    path = write_gguf(random_tensors(np.float32), metadata=metadata)
    tokenizer = import_checkpoint(path, tmp_path / "out").tokenizer()
    letter = byte_tokens().index("a")
    assert tokenizer.decode([258, letter]) == text
    assert (tokenizer.encode_response("<extra>a") == [258, letter]) == (kind == 4)


def test_a_beginning_that_is_never_put_may_equal_the_end(write_gguf: Write, tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.bos_token_id": 257, "tokenizer.ggml.add_bos_token": False}
    folder = import_checkpoint(write_gguf(random_tensors(np.float32), metadata=metadata), tmp_path / "out")
    assert (folder.tokenizer().bos_id, folder.tokenizer().eos_id) == (None, 257)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}, "llama.rope.scaling.type"),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.0}, "llama.rope.scaling.factor"),
        ({"llama.rope.scaling.factor": -4.0}, "llama.rope.scaling.factor: expected one positive number; found -4.0"),
        ({"llama.rope.scaling.attn_factor": 1.5}, "llama.rope.scaling.attn_factor: expected no such key"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count"),
        ({"llama.attention.value_length": 4}, "llama.attention.value_length"),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.attention.sliding_window": 4096}, "llama.attention.sliding_window"),
        ({"llama.block_count": None}, "llama.block_count: expected one positive number; found none"),
        ({"llama.block_count": 4}, "blk.3.attn_norm.weight"),
        ({"llama.block_count": 2}, "blk.2."),
        ({"llama.feed_forward_length": [56, 56, 56]}, "llama.feed_forward_length"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
        ({"llama.attention.head_count": 5}, "num_heads"),
        ({"llama.vocab_size": 300}, "llama.vocab_size"),
        ({"split.count": 2}, "split.count"),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model: expected 'gpt2', byte-level BPE, or 'llama', Senten"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "dbrx"}, "tokenizer.ggml.pre: expected 'smollm' or 'llama-bpe' or"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["a q"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.eos_token_id": None}, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": 261}, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.bos_token_id": 257}, "tokenizer.ggml.bos_token_id"),
        ({"tokenizer.ggml.bos_token_id": None}, "tokenizer.ggml.bos_token_id"),
    ],
)
def test_metadata_that_is_refused(metadata: dict[str, Any], named: str, write_gguf: Write, refusal: Refusal) -> None:
    assert named in refusal(write_gguf(random_tensors(np.float32), metadata=metadata))


def test_another_architecture_is_refused(write_gguf: Write, refusal: Refusal) -> None:
    assert "general.architecture: expected 'llama'; found 'qwen2'" in refusal(write_gguf({}, architecture="qwen2"))


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"model.layers.1.self_attn.k_proj.weight": None}, "blk.1.attn_k.weight"),
        ({"model.embed_tokens.weight": None}, "token_embd.weight"),
        ({"rope_freqs.weight": np.full(4, 2, np.float32)}, "rope_freqs.weight: expected the divisors of LLaMA 3.1"),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, "rope_freqs.weight"),
        ({"blk.0.ffn_gate_inp.weight": np.ones((4, 40), np.float32)}, "blk.0.ffn_gate_inp.weight"),
        ({"blk.0.attn_q.bias": np.ones(48, np.float32)}, "blk.0.attn_q.bias"),
        ({"model.layers.2.mlp.up_proj.weight": np.full((56, 40), np.nan, np.float32)}, "blk.2.ffn_up.weight"),
        ({"model.norm.weight": np.ones(40, np.int8)}, "output_norm.weight"),
        ({"model.norm.weight": np.ones(41, np.float32)}, "output_norm.weight: expected shape (40,); found (41,)"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray | None], named: str, write_gguf: Write, refusal: Refusal
) -> None:
    changed = random_tensors(np.float32) | tensors
    assert named in refusal(write_gguf({name: t for name, t in changed.items() if t is not None}))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(share: float, write_gguf: Write, refusal: Refusal) -> None:
    path = write_gguf(random_tensors(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in refusal(path)


def test_a_length_that_lies_is_refused(write_gguf: Write, refusal: Refusal) -> None:
    path = write_gguf(random_tensors(np.float32))
    content = path.read_bytes()
    of_types = content.index((261).to_bytes(8, "little"), content.index(b"tokenizer.ggml.token_type"))
    path.write_bytes(content[:of_types] + (2**40).to_bytes(8, "little") + content[of_types + 8 :])
    assert "it ends too early" in refusal(path)


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{_NAMES[part]}.weight"
    return f"{_NAMES[stem]}.weight" if stem in _NAMES else name


def _as_stored(name: str, tensor: np.ndarray) -> np.ndarray:
    """A llama GGUF keeps the rows of queries and keys so that rotary pairs are neighbours."""
    heads = {"q_proj": _HEADS, "k_proj": _KV_HEADS}.get(name.split(".")[-2])
    if heads is None or len(tensor) != heads * _HEAD_DIM:
        return tensor
    stored = np.empty_like(tensor)
    for head in range(heads):
        for i in range(_HEAD_DIM // 2):
            first = head * _HEAD_DIM
            stored[first + 2 * i] = tensor[first + i]
            stored[first + 2 * i + 1] = tensor[first + _HEAD_DIM // 2 + i]
    return stored


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def _parameters(folder: CheckpointFolder) -> Any:
    definition = define(folder.model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: place, definition.shapes)
    with Store(folder.path) as store:
        return store.restore_parameters(abstract_parameters(definition.shapes, places, np.float32))
