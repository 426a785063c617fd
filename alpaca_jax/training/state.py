"""What a training run carries from update to update, and how it is made already sharded."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.parallel.compiler_options import options_of_what_runs_once
from alpaca_jax.parallel.sharding import parameter_shardings
from alpaca_jax.training.precision import cast


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Updates done so far (int32), the weights (float32 or bfloat16), and the optimiser's own state (float32 moments).

    The same tree holds the state's shardings, or its shapes, where these are asked for.
    """

    step: Any
    parameters: Parameters
    optimiser: Any


def state_shardings(definition: Definition, optimiser: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A `TrainState` of shardings: the moments lie where their parameters do, all else on every device.

    Raises:
      UserError: a parameter does not divide by the mesh.
    """
    parameters = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    everywhere = NamedSharding(mesh, PartitionSpec())
    moments = optax.tree.map_params(
        optimiser,
        lambda _, sharding: sharding,
        jax.eval_shape(optimiser.init, definition.shapes),
        parameters,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, parameters, moments)


def abstract_state(
    definition: Definition, optimiser: optax.GradientTransformation, shardings: TrainState, parameter_dtype: str
) -> TrainState:
    """The state's shapes, types and shardings, nothing allocated: what a checkpoint is restored into."""
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, parameter_dtype), definition.shapes),
        jax.eval_shape(optimiser.init, definition.shapes),
    )
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, shardings)


def new_state(
    definition: Definition,
    optimiser: optax.GradientTransformation,
    shardings: TrainState,
    seed: int,
    parameter_dtype: str = "float32",
) -> TrainState:
    """A state from random numbers; no device ever holds more of it than its own part."""

    def create() -> TrainState:
        parameters = definition.initialise(seed)
        moments = optimiser.init(parameters)
        return TrainState(jnp.zeros((), jnp.int32), cast(parameters, parameter_dtype), moments)

    options = options_of_what_runs_once(shardings.step.mesh.devices.flat[0].platform)
    return jax.jit(create, out_shardings=shardings, compiler_options=options)()


def state_from(parameters: Parameters, optimiser: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """A state at update 0 around parameters that already lie where they belong, in the type they are kept in."""

    def begin(parameters: Parameters) -> Any:
        return optimiser.init(cast(parameters, jnp.float32))

    moments = jax.jit(begin, out_shardings=shardings.optimiser)(parameters)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), shardings.step), parameters, moments)
