"""Taking a checkpoint out: every bit as it came in, a folder that transformers loads, and damage that is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from diff_models import random_bits, random_model, read_folder
from tiny_llama import CONFIG, random_tensors

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.convert.certificate import check_certificate
from alpaca_jax.convert.exporter import export_checkpoint
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.definition import define
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_file
from tests.models import SMALL
from tests.programs import run, the_one_line

Write = Callable[..., Path]
_BF16 = ml_dtypes.bfloat16


def mixed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layer 0 in bfloat16, layer 1 in float16, the rest as it is."""
    types = {"layers.0.": _BF16, "layers.1.": np.float16}
    chosen = {name: next((kind for part, kind in types.items() if part in name), None) for name in tensors}
    return {name: tensor.astype(chosen[name] or tensor.dtype) for name, tensor in tensors.items()}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "mixed"])
def test_import_and_export_give_every_bit_back(kind: str, write_folder: Write, tmp_path: Path) -> None:
    tensors = mixed(random_tensors(np.float32)) if kind == "mixed" else random_bits(np.dtype(kind), seed=1)
    imported = import_checkpoint(write_folder(tensors, shards=3), tmp_path / "imported")
    out = export_checkpoint(imported.path, tmp_path / "out")
    assert_same(read_folder(out), tensors)
    assert check_certificate(open_source(out)) == len(tensors)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == ("float32" if kind == "mixed" else kind)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True, "hidden_size": 48},
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 48},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 48},
    ],
    ids=["tied", "qwen2", "qwen3"],
)
def test_transformers_loads_it_and_computes_the_same(changes: dict, write_folder: Write, tmp_path: Path) -> None:
    tensors = {name: 0.3 * tensor for name, tensor in random_model(np.float32, **changes).items()}
    source = write_folder(tensors, **changes)
    imported = import_checkpoint(source, tmp_path / "imported")
    out = export_checkpoint(imported.path, tmp_path / "out")
    assert_same(read_folder(out), tensors)
    before, after = (transformers.AutoModelForCausalLM.from_pretrained(path) for path in (source, out))
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.equal(before(tokens).logits, after(tokens).logits)
    assert after.generation_config.eos_token_id == imported.tokenizer().eos_id


def test_a_padding_row_survives_with_its_token(write_folder: Write, tmp_path: Path) -> None:
    """Alpaca's form: one row more than the SentencePiece model has pieces."""
    tensors = random_model(np.float32, vocab_size=2049)
    source = write_folder(tensors, vocab_size=2049)
    (source / "tokenizer.json").unlink()
    shutil.copy(TOKENIZER, source / "tokenizer.model")
    imported = import_checkpoint(source, tmp_path / "imported")
    out = export_checkpoint(imported.path, tmp_path / "out")
    assert_same(read_folder(out), tensors)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.pad_token_id) == (2049, "[PAD]", 2048)
    assert json.loads((out / "generation_config.json").read_text())["pad_token_id"] == 2048
    pieces = sentencepiece.SentencePieceProcessor(str(TOKENIZER))
    for text in ("Hello", "  two spaces, 1984", "naïve 東京 🦙", "", "\n\ttab", " ", "a  b   c ▁", "x" * 50):
        assert tokenizer(text).input_ids == [1, *pieces.encode(text)], text
        assert tokenizer(text).input_ids == load_tokenizer(out).encode_prompt(text)
        assert tokenizer.decode(pieces.encode(text)) == pieces.decode(pieces.encode(text))


def test_a_description_of_the_tokenizer_stays(write_folder: Write, tmp_path: Path) -> None:
    source = write_folder(random_tensors(np.float32))
    said = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
    }
    (source / "tokenizer_config.json").write_text(json.dumps(said))
    (source / "chat_template.jinja").write_text("{{x}}")
    out = export_checkpoint(import_checkpoint(source, tmp_path / "imported").path, tmp_path / "out")
    assert (out / "tokenizer_config.json").read_bytes() == (source / "tokenizer_config.json").read_bytes()
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template == "{{x}}"


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_a_description_that_leaves_out_the_first_token_gets_it(kind: str, write_folder: Write, tmp_path: Path) -> None:
    source = write_folder(random_model(np.float32, vocab_size=2048), vocab_size=2048)
    (source / "tokenizer.json").unlink()
    shutil.copyfile(TOKENIZER, source / "tokenizer.model")
    said = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": kind}
    (source / "tokenizer_config.json").write_text(json.dumps(said))
    out = export_checkpoint(import_checkpoint(source, tmp_path / "imported").path, tmp_path / "out")
    assert json.loads((out / "tokenizer_config.json").read_text()) == said | {"add_bos_token": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("a b").input_ids == load_tokenizer(out).encode_prompt("a b")
    assert tokenizer("").input_ids == [1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_another_type_rounds_to_nearest_even(dtype: str, write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    imported = import_checkpoint(write_folder(tensors), tmp_path / "imported")
    found = read_folder(export_checkpoint(imported.path, tmp_path / "out", dtype))
    for name, tensor in tensors.items():  # torch rounds by itself
        wanted = torch.from_numpy(tensor).to(getattr(torch, dtype)).view(torch.uint8).numpy()
        assert found[name].dtype == np.dtype(dtype)
        assert found[name].tobytes() == wanted.tobytes(), name


def test_a_number_too_large_for_the_type_is_named(write_folder: Write, tmp_path: Path) -> None:
    tensors = random_tensors(np.float32)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 70_000
    imported = import_checkpoint(write_folder(tensors), tmp_path / "imported")
    flags = [f"--checkpoint={imported.path}", f"--out={tmp_path / 'place' / 'out'}"]
    code, _, words = run("convert.__main__", "export", *flags, "--dtype=float16")
    assert code == 2
    assert "tensor model.layers.1.mlp.up_proj.weight: expected numbers that float16 can hold" in words
    assert list((tmp_path / "place").iterdir()) == []
    assert "--dtype: expected bfloat16 or float16" in the_one_line("convert.__main__", "export", *flags, "--dtype=int8")


def flip_a_bit_of(value: np.ndarray, folder: Path) -> None:
    """Finds those bytes in the files of a step and changes one bit."""
    content = value.tobytes()
    for file in (file for file in (folder / "0").rglob("*") if file.is_file()):
        at = file.read_bytes().find(content)
        if at >= 0:
            with open(file, "r+b") as raw:
                raw.seek(at + 5)
                raw.write(bytes([content[5] ^ 4]))
            return
    raise AssertionError("not found")


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_flipped_bit_in_the_checkpoint_ends_with_the_tensors_name(
    dtype: str | None, write_folder: Write, tmp_path: Path
) -> None:
    tensors = random_tensors(_BF16)
    imported = import_checkpoint(write_folder(tensors), tmp_path / "imported")
    flip_a_bit_of(tensors["lm_head.weight"][100:120, 3], imported.path)
    with pytest.raises(UserError, match=r"tensor lm_head\.weight: .*certificate\.json vouches"):
        export_checkpoint(imported.path, tmp_path / "place" / "out", dtype)
    assert list((tmp_path / "place").iterdir()) == []


def test_a_flipped_bit_in_the_export_is_found(write_folder: Write, tmp_path: Path) -> None:
    imported = import_checkpoint(write_folder(random_tensors(_BF16)), tmp_path / "imported")
    out = export_checkpoint(imported.path, tmp_path / "out")
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (out / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"tensor \S+: expected the numbers that certificate\.json vouches for"):
        check_certificate(open_source(out))


@pytest.mark.parametrize("change", [{"tensors": {}}, {"format": 2}, {"kind": 3}], ids=str)
def test_a_changed_certificate_is_refused(change: dict[str, Any], write_folder: Write, tmp_path: Path) -> None:
    imported = import_checkpoint(write_folder(random_tensors(_BF16)), tmp_path / "imported")
    path = imported.path / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    line = the_one_line("convert.__main__", "export", f"--checkpoint={imported.path}", f"--out={tmp_path / 'out'}")
    assert "certificate.json" in line


def test_what_was_trained_is_exported_without_its_padding(tmp_path: Path) -> None:
    definition = define(SMALL)
    parameters = jax.jit(definition.initialise, static_argnums=0)(3)
    folder = CheckpointFolder.create(
        tmp_path / "work" / "checkpoints", SMALL, load_tokenizer(TOKENIZER), provenance={"dataset": "d"}, template=None
    )
    with Store(folder.path) as store:
        for step in (1, 7):
            store.save(step, jax.tree.map(lambda leaf, step=step: leaf * step, parameters))
    found = read_folder(export_checkpoint(tmp_path / "work", tmp_path / "out"))
    name, saved = "model.layers.1.mlp.up_proj.weight", np.asarray(parameters["layers"]["mlp"]["up"])[1].T
    np.testing.assert_array_equal(found[name], 7 * saved)
    np.testing.assert_array_equal(open_source(tmp_path / "work" / "1").read(name), saved)
    files = json.loads((tmp_path / "out" / "certificate.json").read_text())["files"]
    assert {"name": "model.json", "sha256": sha256_file(folder.path / "model.json")} in files
    assert not any(file["name"].startswith("1/") for file in files)


def test_the_same_input_gives_the_same_certificate(write_folder: Write, tmp_path: Path) -> None:
    source = write_folder(random_tensors(np.float16), shards=2)
    first, second = (import_checkpoint(source, tmp_path / name).path for name in ("first", "second"))
    certificate = json.loads((first / "certificate.json").read_text())
    assert (first / "certificate.json").read_bytes() == (second / "certificate.json").read_bytes()
    assert certificate["files"] == [
        {"name": name, "sha256": sha256_file(source / name)}
        for name in (
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        )
    ]
    assert certificate["tensors"].keys() == random_tensors(np.float16).keys()
    assert certificate["model"]["vocab_size"] == CONFIG["vocab_size"]
    assert certificate["versions"].keys() == {"alpaca_jax", "jax", "numpy", "orbax-checkpoint", "safetensors"}


def test_a_checkpoint_is_a_source_but_not_imported(write_folder: Write, tmp_path: Path) -> None:
    imported = import_checkpoint(write_folder(random_tensors(np.float16)), tmp_path / "imported")
    assert open_source(imported.path).kind == "alpaca_jax"
    line = the_one_line("convert.__main__", "import", f"--source={imported.path}", f"--out={tmp_path / 'out'}")
    assert "give it as --checkpoint" in line
