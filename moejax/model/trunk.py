"""The trunk of a decoder: all layers, applied to activations.

Weights of equal layers are stored as one stack, whose first axis is the layer,
and the layers run in a loop, so that compile time does not grow with depth.
`stages.py` has the order of the layers. The trunk does not depend on the source
of the activations, an embedding of tokens or of anything else.

On a mesh with a `context` axis the trunk splits the length of the rows over it
(`parallel/context.py`), and puts its output together in the order of the data.
On a mesh with a `stage` axis the layers of the last stage are a pipeline over
the devices along it (`parallel/pipeline.py`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors
from moejax.model import block, formed, pipeline, remat, stages
from moejax.model.attention.cache import KVCache
from moejax.model.config import ModelConfig
from moejax.model.stages import Stage
from moejax.moe import feed_forward
from moejax.moe.replay import Replay
from moejax.parallel import context, rules
from moejax.parallel import mesh as meshes
from moejax.parallel import pipeline as schedules

ACTIVATION_AXES = ('batch', 'unsharded', 'unsharded')


def constrain(x_BLD: jax.Array, mesh: Mesh) -> jax.Array:
  """Activations outside of the trunk: by rows, and by length if it divides."""
  divides = x_BLD.shape[1] % mesh.shape[context.AXIS] == 0
  length = 'length' if divides else 'unsharded'
  return rules.constrain(x_BLD, ('rows', length, 'unsharded'), mesh)


def stack(
  config: ModelConfig, mesh: Mesh, key: jax.Array, count: int, *, moe: bool
) -> block.Block:
  """`count` equal layers as one block; the weights' first axis is the layer."""
  make = nnx.vmap(lambda key: block.Block(config, mesh, key, moe=moe))
  return make(jax.random.split(key, count))


def _split(layers: block.Block, decoding: bool) -> tuple[Any, Any, Any]:
  """Structure of stacked layers, weights that stay whole, and the other ones.

  A loop copies the weights that it runs over, those of a layer in each step. In
  decoding, experts stay whole, of which a token reads few.
  """
  name = layers.ffn.whole_in_decoding if decoding else ''
  is_whole = lambda path, _: path[:2] == ('ffn', name)
  graph, *states = nnx.split(layers, is_whole, ...)
  whole, rest = states
  if formed.some(whole):
    graph, rest = nnx.split(layers)
    whole = nnx.State({})
  return graph, whole, rest


@dataclasses.dataclass(frozen=True)
class Trunk:
  """The layers of a decoder, bound to weights.

  Attributes:
    config: the model's config.
    mesh: the devices.
    stacks: the layers of each kind, 'dense' and 'moe', each stacked.
  """

  config: ModelConfig
  mesh: Mesh
  stacks: Mapping[str, block.Block]

  def __call__(
    self, x_BLD: jax.Array, tokens: block.TokenContext, key: jax.Array | None
  ) -> tuple[jax.Array, feed_forward.Record]:
    """Runs all layers.

    Args:
      x_BLD: activations in the compute type.
      tokens: properties of the tokens.
      key: random key of this step; None means no noise (evaluation).

    Returns:
      The activations after the last layer, not normalised, and the records of
      the layers with experts, stacked.
    """
    # Layers with experts, if there are any, are all in the last stage.
    return self._over_mesh(stages.of(self.config), x_BLD, tokens, key)

  def run(
    self,
    stage: Stage,
    x_BLD: jax.Array,
    tokens: block.TokenContext,
    key: jax.Array | None,
  ) -> tuple[jax.Array, feed_forward.Record]:
    """Runs the layers of one stage; arguments and results as `__call__`."""
    return self._over_mesh([stage], x_BLD, tokens, key)

  def _over_mesh(
    self,
    order: list[Stage],
    x_BLD: jax.Array,
    tokens: block.TokenContext,
    key: jax.Array | None,
  ) -> tuple[jax.Array, feed_forward.Record]:
    """Runs some stages, on pieces of the rows where the mesh splits them."""
    records = feed_forward.Record({}, {})
    splits = self._splits(x_BLD.shape[:2], tokens)
    how = self.mesh, self.config.context_parallel.order
    if splits:
      x_BLD, tokens = context.split((x_BLD, tokens), *how)
      tokens = dataclasses.replace(tokens, row_axes=(context.AXIS,))
    for stage in order:
      schedule = self._schedule(stage, x_BLD, tokens)
      if schedule is None:
        x_BLD, records = self._run(stage, x_BLD, tokens, key)
      else:
        x_BLD, records = self._pipelined(schedule, stage, x_BLD, tokens, key)
    if not splits:
      return x_BLD, records
    by_token = lambda x_NPS: jnp.moveaxis(x_NPS, 0, 2)
    routes_PSN = jax.tree.map(by_token, records.routes)
    x_BLD, routes_BLN = context.join((x_BLD, routes_PSN), *how)
    by_layer = lambda x_BLN: jnp.moveaxis(x_BLN, 2, 0)
    routes = jax.tree.map(by_layer, routes_BLN)
    return x_BLD, dataclasses.replace(records, routes=routes)

  def _splits(self, shape: tuple[int, ...], tokens: block.TokenContext) -> bool:
    """Whether the mesh splits rows of this number and length.

    Rows that do not divide into its chunks, as evaluations have them, are split
    over the `context` axis as over the others: by their number.
    """
    rows, length = shape
    size = self.mesh.shape[context.AXIS]
    if size == 1:
      return False
    order = self.config.context_parallel.order
    if context.divides(length, self.mesh, order):
      if tokens.routes is not None and tokens.routes.output_gram:
        raise errors.InputError(
          f"mesh.context={size} splits rows, but the products of all experts' "
          'outputs are summed over whole rows; set mesh.context=1'
        )
      return True
    if rows % meshes.batch_size(self.mesh):
      context.check_length(length, self.mesh, order, 'the length of rows')
    return False

  def _run(
    self,
    stage: Stage,
    x_BLD: jax.Array,
    tokens: block.TokenContext,
    key: jax.Array | None,
  ) -> tuple[jax.Array, feed_forward.Record]:
    """Runs the layers of one stage, on rows or on pieces of rows."""
    previous = self.no_previous_layer(stage, tokens)
    carry = self._between_layers(x_BLD), previous
    specs = self.specs(stage, tokens.replay)
    one = self._layer(tokens, key)
    (x_BLD, _), records = self._scan(stage, carry, one, specs)
    return x_BLD, records[-1]

  def _layer(
    self, tokens: block.TokenContext, key: jax.Array | None
  ) -> Callable[..., tuple[Any, feed_forward.Record]]:
    """One layer of a pass without cache, as the `one` of `_scan`."""

    def one(block, carry, spec):
      layer_key = None if key is None else jax.random.fold_in(key, spec.index)
      x_BLD, previous, record = block(*carry, tokens, layer_key, spec)
      return (self._between_layers(x_BLD), previous), record

    return one

  def _schedule(
    self, stage: Stage, x_BLD: jax.Array, tokens: block.TokenContext
  ) -> schedules.Schedule | None:
    """The pipeline of a stage's layers; None to run them one by one.

    So run rows that cannot be cut into microbatches, as evaluations may have
    them, and rows whose routes are recorded or replayed.
    """
    if tokens.routes is not None or tokens.replay is not None:
      return None
    if stage != stages.of(self.config)[-1]:
      return None
    return pipeline.schedule(self.config, self.mesh.shape, x_BLD.shape[0])

  def _pipelined(
    self,
    schedule: schedules.Schedule,
    stage: Stage,
    x_BLD: jax.Array,
    tokens: block.TokenContext,
    key: jax.Array | None,
  ) -> tuple[jax.Array, feed_forward.Record]:
    """Runs the layers of one stage as a pipeline; as `_run`."""
    size = schedule.stages, schedule.repeats

    def visit(weights, carry, tokens, key, stage_number, repeat):
      own = lambda x: x.reshape(*size[::-1], -1)[repeat, stage_number]
      specs = jax.tree.map(own, self.specs(stage))
      weights = {k: stage.by_repeat(k, x) for k, x in weights.items()}
      one, (x_BLD, previous) = self._layer(tokens, key), carry
      carry, records = self._loop(
        *(stage, weights, (self._between_layers(x_BLD), previous), one, specs),
        repeat=None if schedule.repeats == 1 else repeat,
      )
      return carry, records[-1]

    state = x_BLD, self.no_previous_layer(stage, tokens)
    weights = {
      kind: nnx.split(self.stacks[kind])[1] for kind in set(stage.kinds)
    }
    (x_BLD, _), records = schedules.run(
      schedule,
      self.mesh,
      visit,
      weights,
      (state, tokens, key),
      pipeline.merged,
    )
    by_layer = lambda x: x.reshape(stage.repeats, *x.shape[3:])
    x_BLD = rules.constrain(x_BLD, ACTIVATION_AXES, self.mesh)
    return x_BLD, jax.tree.map(by_layer, records)

  def _between_layers(self, x_BLD: jax.Array) -> jax.Array:
    """Activations as they are kept for the backward pass: split over `model`.

    What a layer does for each token by itself, norms and residual sums, is then
    done by one device along `model` (sequence parallelism: arXiv 2205.05198,
    section 4.2.2).
    """
    divides = x_BLD.shape[1] % self.mesh.shape['model'] == 0
    length = 'between_layers' if divides else 'unsharded'
    return rules.constrain(x_BLD, ('batch', length, 'unsharded'), self.mesh)

  def step(
    self, x_BLD: jax.Array, tokens: block.TokenContext, cache: KVCache
  ) -> tuple[jax.Array, KVCache]:
    """Runs all layers for tokens that follow those in the cache."""

    def one(block, carry, spec):
      x_BLD, previous, cache = carry
      return block.step(x_BLD, previous, tokens, spec, cache), None

    for stage in stages.of(self.config):
      carry = x_BLD, self.no_previous_layer(stage, tokens), cache
      specs = self.specs(stage)
      carry, _ = self._scan(stage, carry, one, specs, decoding=True)
      x_BLD, _, cache = carry
    return x_BLD, cache

  def no_previous_layer(
    self, stage: Stage, tokens: block.TokenContext
  ) -> feed_forward.PreviousLayer | None:
    """What the first layer of a stage reads: no layer is before it."""
    if stage.kinds[-1] == 'dense' or not self.config.is_routed:
      return None
    previous = feed_forward.no_previous_layer(
      self.config.moe, *tokens.token_BL.shape
    )
    return jax.tree.map(
      lambda x: rules.constrain(x, ACTIVATION_AXES, self.mesh), previous
    )

  def specs(
    self, stage: Stage, replay: Replay | None = None
  ) -> list[block.LayerSpec]:
    """For each position in R equal groups, the specs [R] of its layers."""
    places = range(len(stage.kinds))
    return [self._specs_at(stage, place, replay) for place in places]

  def _specs_at(
    self, stage: Stage, place: int, replay: Replay | None
  ) -> block.LayerSpec:
    """The specs [R] of the layers at one position in each of R groups."""
    kind, windows = stage.kinds[place], self.config.windows
    each, before = stage.kinds.count(kind), stage.kinds[:place].count(kind)
    group_R = jnp.arange(stage.repeats)
    first = stage.first[kind] + before
    layer_R = stage.start + place + len(stage.kinds) * group_R
    spec = block.LayerSpec(first + each * group_R, None, place=layer_R)
    if any(windows):
      window_R = jnp.asarray(windows, jnp.int32)[layer_R % len(windows)]
      spec = dataclasses.replace(spec, window=window_R)
    if replay is not None and kind == 'moe':
      layers = slice(first, first + each * stage.repeats, each)
      spec = dataclasses.replace(spec, replayed=replay.layers(layers))
    return spec

  def _scan(
    self,
    stage: Stage,
    carry: Any,
    one: Callable[..., tuple[Any, Any]],
    specs: list[block.LayerSpec],
    *,
    decoding: bool = False,
  ) -> tuple[Any, list[Any]]:
    """Applies `one` to a stage's layers in order; a loop step runs one group.

    Args:
      stage: the stage.
      carry: the state that each layer passes to the next.
      one: `carry, out = one(block, carry, spec)` for one layer.
      specs: from `specs`.
      decoding: whether the layers read a cache. Then there is no backward pass,
        so nothing is recomputed, and the loop is not unrolled.

    Returns:
      The last carry, and the outs of each position in the groups, stacked.
    """
    weights = {
      kind: stage.weights(kind, _split(self.stacks[kind], decoding)[2])
      for kind in set(stage.kinds)
    }
    return self._loop(stage, weights, carry, one, specs, decoding=decoding)

  def _loop(
    self,
    stage: Stage,
    weights: dict[str, Any],
    carry: Any,
    one: Callable[..., tuple[Any, Any]],
    specs: list[block.LayerSpec],
    *,
    decoding: bool = False,
    repeat: jax.Array | None = None,
  ) -> tuple[Any, list[Any]]:
    """As `_scan`, for weights by kind.

    Args:
      stage: the kinds of layers of a group.
      weights: by kind, from `stage.weights`; with `repeat` those of all repeats
        of a pipeline, the repeats behind the layers.
      carry: as of `_scan`.
      one: as of `_scan`.
      specs: as of `_scan`.
      decoding: as of `_scan`; the weights lack those that stay whole.
      repeat: which repeat's weights are used. They are taken where the backward
        pass can take them again: no copy of them is kept.
    """
    policy = remat.POLICIES['none' if decoding else self.config.remat]
    visits = {}
    for kind in set(stage.kinds):
      graph, whole, _ = _split(self.stacks[kind], decoding)

      @policy
      def visit(carry, weights, spec, repeat, graph=graph, whole=whole):
        if repeat is not None:
          weights = jax.tree.map(lambda x: x[repeat], weights)
        layer = nnx.merge(graph, formed.arrays(weights), whole)
        if whole:
          layer.ffn.of_all_layers = True
        return one(layer, carry, spec)

      visits[kind] = visit

    def body(carry, inputs):
      weights, specs = inputs
      outs = []
      for kind, own, spec in zip(
        stage.kinds, stage.each(weights), specs, strict=True
      ):
        carry, out = visits[kind](carry, own, spec, repeat)
        outs.append(out)
      return carry, outs

    steps = jnp.shape(specs[0].index)[0]
    return jax.lax.scan(
      body,
      carry,
      (weights, specs),
      unroll=min(1 if decoding else self.config.scan_unroll, steps),
    )
