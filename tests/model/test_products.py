"""Products and attention with gradients of our own: those that JAX would have derived, and no product made twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model.attention import packed_attention, visible
from alpaca_jax.model.products import product
from alpaca_jax.model.rematerialisation import rematerialise
from alpaca_jax.parallel.mesh import make_mesh


def normal(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [((12,), (20,)), ((20,), (12,)), ((12,), (2, 9)), ((2, 9), (12,))], ids=str
)
def test_a_cpu_multiplies_as_it_is_derived(inputs: tuple[int, ...], outputs: tuple[int, ...], dtype: str):
    x, weight = normal(0, (2, 8, *inputs), dtype), normal(1, (*inputs, *outputs), dtype)
    cotangent = normal(2, (2, 8, *outputs), dtype)

    def all_of_it(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
        made, backward = jax.vjp(lambda x, weight: product(x, weight, len(inputs)), x, weight)
        return made, *backward(cotangent)

    plain = jax.jit(all_of_it)(x, weight)  # no mesh, no devices known: as JAX derives it
    with jax.set_mesh(make_mesh({"fsdp": 2, "context": 2, "tensor": 2})):
        on_cpu = jax.jit(all_of_it)(x, weight)
    for mine, derived in zip(on_cpu, plain, strict=True):
        assert mine.dtype == derived.dtype == dtype
        mine, derived = (np.asarray(array, np.float32) for array in (mine, derived))
        # Sums of 12 to 20 products, about 4 large; bfloat16 rounds to a 256th.
        tolerance = 1e-5 if dtype == "float32" else 0.02
        np.testing.assert_allclose(mine, derived, rtol=tolerance, atol=8 * tolerance)


def products_of_a_gradient(policy: str) -> int:
    weight = normal(0, (8, 8))

    def layer(x: jax.Array) -> jax.Array:
        return jnp.sin(product(jnp.sin(product(x, weight)), weight))

    with jax.set_mesh(make_mesh({"fsdp": 8})):
        program = jax.make_jaxpr(jax.grad(lambda x: rematerialise(layer, policy)(x).sum()))(normal(1, (8, 4, 8)))
    return str(program).count("dot_general")


def test_products_are_kept_for_the_backward_pass_by_name():
    # Two products, and each with two gradients; "full" makes both a second time.
    assert products_of_a_gradient("none") == products_of_a_gradient("dots") == 6
    assert products_of_a_gradient("full") == 8


def test_a_cpu_rounds_what_it_multiplies_where_it_is_asked_to():
    x, weight, cotangent = normal(0, (2, 8, 20)), normal(1, (20, 2, 6)), normal(2, (2, 8, 2, 6))

    def all_of_it(precision: str | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        with jax.set_mesh(make_mesh({"fsdp": 8})), jax.default_matmul_precision(precision):
            made, backward = jax.vjp(product, *arrays)
            return made, *backward(cotangent)

    rounded = [np.asarray(array.astype("bfloat16"), np.float64) for array in (x, weight, cotangent)]
    exact = (
        np.einsum("bli,iho->blho", rounded[0], rounded[1]),
        np.einsum("blho,iho->bli", rounded[2], rounded[1]),
        np.einsum("bli,blho->iho", rounded[0], rounded[2]),
    )
    for mine, theirs in zip(all_of_it("BF16_BF16_F32", x, weight), exact, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    plain = all_of_it(None, x, weight)
    assert all(np.abs(mine - theirs).max() > 1e-3 for mine, theirs in zip(plain, exact, strict=True))


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_and_its_gradients_are_those_of_jax(window: int | None, blocks: int):
    q, k, v = normal(0, (2, 16, 4, 8)), normal(1, (2, 16, 2, 8)), normal(2, (2, 16, 2, 8))
    segments = jnp.array([[1] * 9 + [2] * 4 + [0] * 3, [1] * 16])
    places = jnp.arange(16)[None]
    mask = visible(places, places, window, (segments, segments))[:, None]

    def theirs(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return packed_attention(q, k, v, segments, window, blocks)

    cotangent = normal(3, q.shape)
    both = (jax.tree.leaves(_with_gradients(function, cotangent, q, k, v)) for function in (ours, theirs))
    for mine, reference in zip(*both, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=2e-6)


def _with_gradients(function, cotangent: jax.Array, *arguments: jax.Array):
    made, backward = jax.vjp(function, *arguments)
    return made, backward(cotangent)
