"""A weight diff in xor mode: with the base it gives every bit of the tuned model back, without it nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meta_folder
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from diff_models import random_bits, random_model, read_folder
from tiny_llama import byte_tokens, random_tensors

from alpaca_jax.convert.bits import sha256_tensor
from alpaca_jax.convert.diff import make_diff
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.convert.recover import recover
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.support.errors import UserError

Write = Callable[..., Path]

_DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
_ROWS = {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize("tuned_dtype", _DTYPES)
@pytest.mark.parametrize("base_dtype", _DTYPES)
def test_every_bit_is_recovered(base_dtype: Any, tuned_dtype: Any, write_folder: Write, tmp_path: Path) -> None:
    """Random bits: all signs, subnormal numbers and zeros of both signs; a vocabulary that grew; other shards."""
    base = random_bits(base_dtype, seed=1)
    fewer = {name: tensor[:257] if name in _ROWS else tensor for name, tensor in base.items()}
    tuned = random_bits(tuned_dtype, seed=2)
    base_folder = write_folder(fewer, shards=2, name="base", vocab_size=257)
    tuned_folder = write_folder(tuned, shards=3, name="tuned")
    make_diff(base_folder, tuned_folder, tmp_path / "diff")
    recover(base_folder, tmp_path / "diff", tmp_path / "recovered")

    rows_of_the_diff = read_folder(tmp_path / "diff")["lm_head.weight"][257:]
    assert rows_of_the_diff.tobytes() == tuned["lm_head.weight"][257:].tobytes()  # as if the base had zeros
    found = read_folder(tmp_path / "recovered")
    assert {name: (t.shape, t.dtype, t.tobytes()) for name, t in found.items()} == {
        name: (t.shape, t.dtype, t.tobytes()) for name, t in tuned.items()
    }
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "recovered" / file).read_bytes() == (tuned_folder / file).read_bytes()
    certificate = json.loads((tmp_path / "recovered" / "certificate.json").read_text())
    assert {name: record["sha256"] for name, record in certificate["tensors"].items()} == {
        name: sha256_tensor(tensor) for name, tensor in tuned.items()
    }


def test_a_diff_is_no_model(write_folder: Write, tmp_path: Path) -> None:
    heads = {"num_attention_heads": 5, "num_key_value_heads": 5}  # transformers wants the width to be a multiple
    folders = [write_folder(random_model(np.float32, **heads), name=name, **heads) for name in ("base", "tuned")]
    assert transformers.AutoModelForCausalLM.from_pretrained(folders[1], local_files_only=True)
    make_diff(*folders, tmp_path / "diff")
    with pytest.raises(UserError, match=r"a weight diff\. Make the model of it"):
        open_source(tmp_path / "diff")
    with pytest.raises(OSError, match="no file named"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "diff", local_files_only=True)


def test_the_same_input_gives_the_same_diff(write_folder: Write, tmp_path: Path) -> None:
    folders = write_folder(random_tensors(np.float16), name="base"), write_folder(random_tensors(np.float32), name="b")
    for out in "one", "two":
        make_diff(*folders, tmp_path / out)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_base_may_come_in_any_form(write_folder: Write, tmp_path: Path) -> None:
    """The manifest is of tensors, not of files: PyTorch's form or our own checkpoint of the same base will do."""
    base, tuned = random_tensors(ml_dtypes.bfloat16), random_tensors(np.float32)
    folder, tuned_folder = write_folder(base, name="base"), write_folder(tuned, name="tuned")
    checkpoint = import_checkpoint(folder, tmp_path / "checkpoint").path
    make_diff(checkpoint, tuned_folder, tmp_path / "diff")
    pickled = write_folder(base, name="pickled")
    (pickled / "model.safetensors").unlink()
    state = {name: torch.from_numpy(t.view(np.int16)).view(torch.bfloat16) for name, t in base.items()}
    torch.save(state, pickled / "pytorch_model.bin")
    for number, form in enumerate((folder, pickled, checkpoint)):
        recover(form, tmp_path / "diff", tmp_path / f"recovered {number}")
        found = read_folder(tmp_path / f"recovered {number}")
        assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in tuned.items())


def test_both_may_be_metas(tmp_path: Path) -> None:
    """The base is recovered from in another number of shards than the diff was made from."""
    params = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32, "norm_eps": 1e-6, "vocab_size": -1}
    base, tuned = (meta_folder.random_model(params, 2056, seed) for seed in range(2))
    first = meta_folder.write(tmp_path / "base", params, {name: t.half() for name, t in base.items()}, shards=1)
    again = meta_folder.write(tmp_path / "again", params, {name: t.half() for name, t in base.items()}, shards=2)
    wanted = meta_folder.write(tmp_path / "tuned", params, tuned, shards=2)
    shutil.copyfile(TOKENIZER, wanted / "tokenizer.model")
    make_diff(first, wanted, tmp_path / "diff")
    recover(again, tmp_path / "diff", tmp_path / "recovered")
    ours, theirs = open_source(tmp_path / "recovered"), open_source(wanted)
    assert ours.model == theirs.model
    assert ours.tensors == theirs.tensors
    assert all(ours.read(name).tobytes() == theirs.read(name).tobytes() for name in ours.tensors)
    assert ours.tokenizer(tmp_path).encode_prompt("llama") == theirs.tokenizer(tmp_path).encode_prompt("llama")


def test_our_own_checkpoint_may_be_the_tuned_model(write_folder: Write, tmp_path: Path) -> None:
    base, tuned = random_tensors(np.float16), random_tensors(np.float32)
    folder = write_folder(base, name="base")
    checkpoint = import_checkpoint(write_folder(tuned, name="tuned"), tmp_path / "checkpoint").path
    make_diff(folder, checkpoint, tmp_path / "diff")
    recover(folder, tmp_path / "diff", tmp_path / "recovered")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "recovered", dtype=torch.float32)
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert found.keys() == tuned.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in tuned.items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "recovered")
    assert tokenizer("h").input_ids == [byte_tokens().index("h")]


def test_a_tied_base_gives_its_embedding_for_the_head(write_folder: Write, tmp_path: Path) -> None:
    base, tuned = random_tensors(np.float16), random_tensors(np.float16)
    del base["lm_head.weight"]
    tuned["lm_head.weight"] = base["model.embed_tokens.weight"]
    base_folder = write_folder(base, name="base", tie_word_embeddings=True)
    make_diff(base_folder, write_folder(tuned, name="tuned"), tmp_path / "diff")
    assert not read_folder(tmp_path / "diff")["lm_head.weight"].any()
    recover(base_folder, tmp_path / "diff", tmp_path / "recovered")
    assert np.array_equal(read_folder(tmp_path / "recovered")["lm_head.weight"], tuned["lm_head.weight"])


@pytest.mark.parametrize("mode", ["xor", "additive"])
def test_a_tuned_model_that_is_not_finite_is_refused(mode: str, write_folder: Write, tmp_path: Path) -> None:
    tuned = random_tensors(ml_dtypes.bfloat16)
    tuned["model.layers.1.mlp.up_proj.weight"][55, 39] = np.nan
    folders = write_folder(random_tensors(np.float16), name="base"), write_folder(tuned, name="tuned")
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: expected finite numbers"):
        make_diff(*folders, tmp_path / "out" / "diff", mode)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 2}, "model.layers.2.input_layernorm.weight: expected it among the tensors"),
        ({"num_hidden_layers": 4}, "model.layers.3.input_layernorm.weight: expected only the tensors"),
        ({"vocab_size": 262}, "lm_head.weight: expected shape (261, 40); found (262, 40)"),
        ({"intermediate_size": 57}, "mlp.down_proj.weight: expected shape (40, 56); found (40, 57)"),
    ],
)
def test_a_base_of_other_sizes_is_refused(
    changes: dict[str, int], named: str, write_folder: Write, tmp_path: Path
) -> None:
    base = write_folder(random_model(np.float16, **changes), name="base", **changes)
    tuned = write_folder(random_tensors(np.float16), name="tuned")
    with pytest.raises(UserError, match=re.escape(named)):
        make_diff(base, tuned, tmp_path / "out" / "diff")
    assert not (tmp_path / "out").exists()


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"xor or additive; found subtract"):
        make_diff(tmp_path, tmp_path, tmp_path / "diff", "subtract")
