"""A model apart from its numbers: pure functions over a plain tree of parameters.

NNX declares the modules; everything around them (jit, optimiser, checkpoints) sees one nested dictionary of arrays.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx

from alpaca_jax.model.attention_kernels import REFERENCE, Kernel
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.llama import Llama
from alpaca_jax.model.quantised import Quantised

Parameters = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Definition:
    """A `Llama`'s structure: what parameters it has, and how they become a module."""

    config: ModelConfig
    _graph: Any
    _state: nnx.State  # of jax.ShapeDtypeStruct

    @property
    def shapes(self) -> Parameters:
        """`jax.ShapeDtypeStruct` (float32) of each parameter."""
        return nnx.to_pure_dict(self._state)

    @property
    def logical_axes(self) -> Parameters:
        """The tuple of logical axis names of each parameter."""
        axes = [(path, variable.get_metadata()["out_sharding"]) for path, variable in nnx.to_flat_state(self._state)]
        return nnx.traversals.unflatten_mapping(dict(axes))

    def initialise(self, seed: int) -> Parameters:
        """Random parameters, float32; the same for a seed whatever the mesh they are made on."""
        _, state = nnx.split(_build(self.config, seed=seed))
        return nnx.to_pure_dict(state)

    def bind(self, parameters: Parameters) -> Llama:
        """The module with these parameters: arrays or tracers of any floating type, or `Quantised`.

        For `extend`, what is a stack of layers may be a tuple of these.
        """
        leaves = jax.tree.leaves(parameters, is_leaf=lambda leaf: isinstance(leaf, (tuple, Quantised)))
        state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)
        return nnx.merge(self._graph, state)


def define(config: ModelConfig, remat: str = "none", kernel: Kernel = REFERENCE) -> Definition:
    """The structure of a model of that configuration, made without allocating anything.

    Args:
      config: its sizes.
      remat: a name of `rematerialisation.POLICIES`; it changes what the backward pass keeps, never a value.
      kernel: of the attention over packed rows; `attention_choice.choose_attention` gives the machine's.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: _build(config, remat=remat, kernel=kernel)))
    return Definition(config, graph, state)


def _build(config: ModelConfig, seed: int = 0, remat: str = "none", kernel: Kernel = REFERENCE) -> Llama:
    # Logical names stay logical until the one table maps them: NNX must not look for a mesh that has them.
    with nnx.use_eager_sharding(False):
        return Llama(config, nnx.Rngs(params=seed), remat, kernel)
