"""Stochastic rounding: its mean, what stays, and that no update is too small to count."""

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.training.precision import kept, round_stochastically

KEY = jax.random.key(7)
DRAWS = 4096


def test_the_mean_of_many_draws_is_the_number_and_each_is_a_neighbour():
    random = np.random.default_rng(0)
    numbers = random.normal(size=64).astype(np.float32) * np.exp2(random.integers(-140, 120, 64)).astype(np.float32)
    bits = numbers.view(np.uint32)
    below = (bits & 0xFFFF_0000).view(np.float32)
    above = ((bits & 0xFFFF_0000) + 0x1_0000).view(np.float32)  # away from zero
    drawn = jax.vmap(lambda key: round_stochastically(jnp.asarray(numbers), key))(jax.random.split(KEY, DRAWS))
    assert drawn.dtype == jnp.bfloat16
    # In numpy, which keeps subnormal numbers.
    drawn = (np.asarray(drawn).view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    is_above = drawn == above
    assert (is_above | (drawn == below)).all()
    share = (bits & 0xFFFF) / 2**16
    error = np.sqrt(share * (1 - share) / DRAWS)
    assert (np.abs(is_above.mean(axis=0) - share) <= 5 * error).all()


def test_what_bfloat16_holds_stays_and_nothing_becomes_infinite():
    held = np.array([0.0, -0.0, 1.0, -1.5, 2.0**-133, 3.38953139e38, np.inf, -np.inf], np.float32)
    for key in jax.random.split(KEY, 8):
        rounded = round_stochastically(jnp.asarray(held), key)
        np.testing.assert_array_equal(np.asarray(rounded).view(np.uint16), held.view(np.uint32) >> 16)
        largest = jnp.array([np.finfo(np.float32).max, np.finfo(np.float32).min])
        assert jnp.isfinite(round_stochastically(largest, key)).all()
        nans = jnp.array([0x7F80_0001, 0xFFFF_FFFF], jnp.uint32).view(jnp.float32)
        assert jnp.isnan(round_stochastically(nans, key)).all()


def test_updates_that_rounding_to_the_nearest_would_lose_move_the_mean():
    weights = jnp.ones(4096, jnp.bfloat16)
    step = 1e-4  # bfloat16's own steps near 1 are 0.0078 upwards
    assert (weights + jnp.bfloat16(step) == weights).all()
    for update in range(50):
        weights = kept({"weight": weights.astype(jnp.float32) + step}, "bfloat16", 0, update)["weight"]
    # Of 50 × 4,096 draws, each a step of 1/128 with probability 0.0128.
    error = np.sqrt(50 * 0.0128) / 128 / np.sqrt(4096)
    assert abs(float(weights.astype(jnp.float32).mean()) - 1 - 50 * step) < 5 * error


def test_the_noise_is_that_of_the_update_and_the_parameter_on_every_mesh():
    mesh = jax.make_mesh((8,), ("all",))
    numbers = jnp.linspace(1.0, 2.0, 64)
    parameters = {"a": numbers, "b": numbers}
    split = jax.device_put(parameters, jax.NamedSharding(mesh, jax.P("all")))
    round_all = jax.jit(kept, static_argnums=(1, 2))
    one, other = round_all(parameters, "bfloat16", 0, 3), round_all(split, "bfloat16", 0, 3)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert (one["a"] != one["b"]).any()
    for seed, update in ((0, 4), (1, 3)):
        assert (round_all(parameters, "bfloat16", seed, update)["a"] != one["a"]).any()
    assert kept(parameters, "float32", 0, 3) is parameters
