"""A step saved piece by piece is the step that an ordinary save leaves, and both are read slice by slice."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts

from alpaca_jax.checkpoint.arrays import SavedParameters
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.checkpoint.streaming import ArrayToCome, Part, save_streamed
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings
from alpaca_jax.support.errors import UserError
from tests.models import SMALL as MODEL

_DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def on_mesh(**axes: int):
    definition = define(MODEL)
    return parameter_shardings(make_mesh(axes), definition.logical_axes, definition.shapes)


@pytest.fixture(scope="module")
def tree() -> dict[str, np.ndarray]:
    """Random bits for every parameter, by path, in one type after the other."""
    rng = np.random.default_rng(0)
    paths = jax.tree_util.tree_leaves_with_path(define(MODEL).shapes)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    return {
        name: rng.standard_normal(leaf.shape).astype(_DTYPES[number % 3])
        for number, (name, (_, leaf)) in enumerate(zip(names, paths, strict=True))
    }


def parts(tree: dict[str, np.ndarray]) -> Iterator[Part]:
    """The last layer first, the rest whole."""
    for layer in reversed(range(MODEL.num_layers)):
        for name, array in tree.items():
            if name.startswith("layers."):
                half = array.shape[1] // 2
                yield Part(name, (layer, slice(half)), array[layer, :half])
                yield Part(name, (layer, slice(half, None)), array[layer, half:])
    yield from (Part(name, (), array) for name, array in tree.items() if not name.startswith("layers."))


def arrays(tree: dict[str, np.ndarray]) -> dict[str, ArrayToCome]:
    return {
        name: ArrayToCome(
            array.shape,
            array.dtype,
            (1, array.shape[1] // 2, *array.shape[2:]) if name.startswith("layers.") else array.shape,
        )
        for name, array in tree.items()
    }


@pytest.fixture(scope="module")
def streamed(tree: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    save_streamed(folder, 0, arrays(tree), parts(tree))
    return folder


@pytest.fixture(scope="module")
def trained(tree: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tree, saved from a mesh as the trainer does."""
    folder = tmp_path_factory.mktemp("trained")
    leaves, structure = jax.tree.flatten(on_mesh(fsdp=4, tensor=2))
    placed = [jax.device_put(array, place) for array, place in zip(tree.values(), leaves, strict=True)]
    with Store(folder) as store:
        store.save(0, jax.tree.unflatten(structure, placed))
    return folder


@pytest.mark.parametrize("mesh", [{"data": 8}, {"fsdp": 8}, {"fsdp": 2, "tensor": 2, "data": 2}], ids=str)
def test_it_is_restored_onto_any_mesh(mesh: dict[str, int], tree: dict[str, np.ndarray], streamed: Path):
    shardings, shapes = on_mesh(**mesh), define(MODEL).shapes
    wanted = abstract_parameters(shapes, shardings, np.float32)
    with Store(streamed) as store:
        restored = store.restore_parameters(wanted)
    for array, leaf, place in zip(tree.values(), jax.tree.leaves(restored), jax.tree.leaves(shardings), strict=True):
        np.testing.assert_array_equal(jax.device_get(leaf), array.astype(np.float32))
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_slices_of_either_are_read_alone(tree: dict[str, np.ndarray], streamed: Path, trained: Path):
    for folder in (streamed, trained):
        saved = SavedParameters(folder / "0")
        assert sorted(saved.paths) == sorted(tree)
        for name, array in tree.items():
            assert (saved.shape(name), saved.dtype(name)) == (array.shape, array.dtype)
            assert saved.read(name).tobytes() == array.tobytes()
            assert saved.read(name, layer=1).tobytes() == array[1].tobytes()


def test_no_piece_of_a_trained_step_holds_two_layers(trained: Path):
    base = {"driver": "file", "path": f"{trained}/0/parameters/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    chunks = {name: json.loads(store[f"{name}/.zarray"])["chunks"] for name in ("layers.mlp.gate", "embedding")}
    assert chunks["layers.mlp.gate"][0] == 1
    assert chunks["embedding"] == [MODEL.padded_vocab_size // 2, MODEL.hidden_size // 4]  # small: as on the devices


def test_what_the_stream_raises_comes_out_and_nothing_is_committed(tree: dict[str, np.ndarray], tmp_path: Path):
    def broken() -> Iterator[Part]:
        yield from list(parts(tree))[:5]
        raise UserError("tensor x", expected="a", found="b", remedy="c")

    with pytest.raises(UserError, match=r"^tensor x: expected a; found b"):
        save_streamed(tmp_path, 0, arrays(tree), broken())
    with Store(tmp_path) as store:
        assert store.latest_step() is None


@pytest.mark.parametrize("fault", ["missing", "twice", "shape", "type"])
def test_a_stream_that_is_not_what_was_announced(fault: str, tree: dict[str, np.ndarray], tmp_path: Path):
    all_parts = list(parts(tree))
    changed = {
        "missing": all_parts[1:],
        "twice": [all_parts[0], *all_parts],
        "shape": [all_parts[0]._replace(value=all_parts[0].value[:1]), *all_parts[1:]],
        "type": [all_parts[0]._replace(value=all_parts[0].value.astype(np.float64)), *all_parts[1:]],
    }[fault]
    with pytest.raises(AssertionError, match=r"numbers that are missing|for \("):
        save_streamed(tmp_path, 0, arrays(tree), changed)
    with Store(tmp_path) as store:
        assert store.latest_step() is None


def test_a_step_without_parameters(tmp_path: Path, streamed: Path):
    with pytest.raises(UserError, match="_METADATA"):
        SavedParameters(tmp_path)
    with pytest.raises(UserError, match="no such parameter"):
        SavedParameters(streamed / "0").read("layers.unknown")
