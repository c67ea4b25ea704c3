"""A model from a config: its structure, apart from its weights.

Outside of `Decoder` a model is in two: a `Model`, its static structure, and its
weights, a plain nested dictionary of arrays that steps, checkpoints and
converters pass around.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import quantization, trees
from moejax.model import compute_dtype, pipeline
from moejax.model.config import ModelConfig
from moejax.model.decoder import Decoder
from moejax.moe.expert_parallel.base import ExpertParallel
from moejax.parallel import hosts, rules, weight_metadata

Weights = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """The structure of a decoder without its weights.

  Attributes:
    config: the config that it was built from.
    mesh: the devices.
    graph: the structure as returned by `nnx.split`.
    shapes: shape and type of every weight, as a nested dictionary.
    axes: names of every weight's dimensions, by the weight's path.
    decays: whether weight decay applies to a weight, by the weight's path.
    shardings: sharding of every weight, as a nested dictionary.
    frozen: paths of weights through which no gradient passes.
  """

  config: ModelConfig
  mesh: Mesh
  graph: Any
  shapes: Weights
  axes: dict[str, tuple[str, ...]]
  decays: dict[str, bool]
  shardings: Weights
  frozen: frozenset[str] = dataclasses.field(default=frozenset(), kw_only=True)

  def init(self, key: jax.Array) -> Weights:
    """Random weights, each made on the devices that hold it."""
    make = lambda key: nnx.to_pure_dict(nnx.state(_decoder(self, key)))
    run = jax.jit(
      make,
      out_shardings=self.shardings,
      compiler_options=hosts.quick_compile(self.mesh),
    )
    return run(key)

  def bind(self, weights: Weights) -> Decoder:
    """The decoder with these weights; cheap, and for use inside `jit`."""
    if self.frozen:
      weights = trees.map_paths(
        lambda p, w: jax.lax.stop_gradient(w) if p in self.frozen else w,
        weights,
      )
    state = nnx.State(jax.tree.map(nnx.Param, weights))
    return nnx.merge(self.graph, state)

  def trace(self, rows: int, length: int) -> None:
    """Traces a training pass without computing anything.

    Args:
      rows: number of rows of a batch.
      length: number of tokens of a row.

    Raises:
      InputError: parts of the config whose shapes do not fit together.
    """

    def run(weights: Weights, key: jax.Array) -> Any:
      token_BL = jnp.zeros((rows, length), jnp.int32)
      decoder = self.bind(weights)
      segment_BL = position_BL = token_BL
      out = decoder(token_BL, segment_BL, position_BL, key=key)
      _, out = decoder.predict(out, token_BL, segment_BL, position_BL, key=key)
      return out.record

    jax.eval_shape(run, self.shapes, jax.random.key(0))

  def with_expert_parallel(self, expert_parallel: ExpertParallel) -> 'Model':
    """This model with another `moe.expert_parallel`; weights stay the same."""
    moe = dataclasses.replace(self.config.moe, expert_parallel=expert_parallel)
    other = build(dataclasses.replace(self.config, moe=moe), self.mesh)
    return dataclasses.replace(other, frozen=self.frozen)


def abstract(model: Model) -> Weights:
  """Shapes, types and shardings of the weights, to restore them with."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    model.shapes,
    model.shardings,
  )


def _decoder(model: Model, key: jax.Array) -> Decoder:
  return Decoder(model.config, model.mesh, key)


def build(config: ModelConfig, mesh: Mesh) -> Model:
  """Builds the model's structure and shardings.

  Args:
    config: of the model. With `dtype=auto` the model's own config has the type
      that is faster on the devices; on a CPU that is measured, in a second.
    mesh: the devices.

  Raises:
    InputError: sizes that do not fit together or do not divide over the mesh,
      or a package is missing.
    ValueError: a weight does not state its dimensions' names or its decay.
  """
  config.check()
  quantization.check(config.quantization)
  dtype = compute_dtype.resolve(config.dtype, [*mesh.devices.flat])
  config = dataclasses.replace(config, dtype=dtype)
  abstract = nnx.eval_shape(lambda: Decoder(config, mesh, jax.random.key(0)))
  graph, state = nnx.split(abstract)
  shapes = nnx.to_pure_dict(state)
  axes = weight_metadata.axes(state, shapes)
  axes = pipeline.axes(config, mesh, axes)
  shardings = rules.shardings(axes, shapes, mesh)
  decays = weight_metadata.decays(state)
  return Model(config, mesh, graph, shapes, axes, decays, shardings)
