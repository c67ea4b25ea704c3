"""An encoder or a projector from a config: its structure, and its weights.

As of a decoder, the structure is a static object and the weights are a nested
dictionary of arrays.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.parallel import hosts, rules, weight_metadata
from moejax.vision.config import VisionConfig
from moejax.vision.encoder import VisionEncoder

Weights = dict[str, Any]
M = TypeVar('M', bound=nnx.Module)


@dataclasses.dataclass(frozen=True, eq=False)
class Structure(Generic[M]):
  """A module without its weights.

  Attributes:
    make: makes the module with random weights, from a key.
    mesh: the devices.
    graph: the structure as returned by `nnx.split`.
    shapes: shape and type of every weight, as a nested dictionary.
    axes: names of every weight's dimensions, by the weight's path.
    decays: whether weight decay applies to a weight, by the weight's path.
    shardings: sharding of every weight, as a nested dictionary.
  """

  make: Callable[[jax.Array], M]
  mesh: Mesh
  graph: Any
  shapes: Weights
  axes: dict[str, tuple[str, ...]]
  decays: dict[str, bool]
  shardings: Weights

  def init(self, key: jax.Array) -> Weights:
    """Random weights, each made on the devices that hold it."""
    run = jax.jit(
      lambda key: nnx.to_pure_dict(nnx.state(self.make(key), nnx.Param)),
      out_shardings=self.shardings,
      compiler_options=hosts.quick_compile(self.mesh),
    )
    return run(key)

  def bind(self, weights: Weights) -> M:
    """The module with these weights; cheap, and for use inside `jit`."""
    state = nnx.State(jax.tree.map(nnx.Param, weights))
    return nnx.merge(self.graph, state)


def structure(make: Callable[[jax.Array], M], mesh: Mesh) -> Structure[M]:
  """The structure and shardings of a module that `make` makes from a key.

  Raises:
    InputError: sizes that do not fit together or do not divide over the mesh.
    ValueError: a weight does not state its dimensions' names or its decay.
  """
  abstract = nnx.eval_shape(lambda: make(jax.random.key(0)))
  graph, state = nnx.split(abstract)
  shapes = nnx.to_pure_dict(state)
  axes = weight_metadata.axes(state, shapes)
  return Structure(
    make,
    mesh,
    graph,
    shapes,
    axes,
    weight_metadata.decays(state),
    rules.shardings(axes, shapes, mesh),
  )


def encoder(config: VisionConfig, mesh: Mesh) -> Structure[VisionEncoder]:
  """The structure of an encoder; errors as of `structure`."""
  return structure(lambda key: VisionEncoder(config, mesh, key), mesh)
