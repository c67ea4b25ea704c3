"""Weights and outputs of the routed experts of a model, for measures of them.

The outputs are those of the chosen experts on the tokens of a trace. The text
is packed anew from the trace: every piece of a document that the model read
alone is one segment. So a router in which the tokens of a row compete may
choose otherwise than in the trace; all others choose the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.analysis.trace import NOWHERE, Trace
from moejax.analysis.traces import ExpertOutputs
from moejax.core import errors
from moejax.model import layerwise
from moejax.model.block import Block, TokenContext
from moejax.model.build import Model, Weights
from moejax.moe import feed_forward
from moejax.moe.experts import low_rank
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.replay import Replayed
from moejax.moe.routes import RoutesRequest
from moejax.parallel import mesh as meshes
from moejax.parallel import rules

TOKENS = 4096  # of a batch, about; the outputs of a layer are in memory at once


@dataclasses.dataclass(frozen=True)
class Rows:
  """The tokens of a trace as rows of equal length, padded.

  Attributes:
    token_BL: int32, ids in the vocabulary.
    segment_BL: int32, number of the segment in its row, from 1; 0 is padding.
    position_BL: int32, position of the token in its segment.
    document_BL: int32, number of the document.
  """

  token_BL: np.ndarray
  segment_BL: np.ndarray
  position_BL: np.ndarray
  document_BL: np.ndarray


def pack(trace: Trace, length: int) -> Rows:
  """Packs the segments of a trace into rows, in their order.

  A segment begins where the position is 0. One that does not fit into the rest
  of a row begins the next.

  Args:
    trace: of whole documents.
    length: number of tokens of a row; more, if a segment is longer.
  """
  starts = np.flatnonzero(trace.position_T == 0)
  stops = np.append(starts[1:], len(trace.token_T))
  length = max([length, *(stops - starts).tolist()])
  row, used, segment = 0, 0, 0
  places = []
  for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
    if used + stop - start > length:
      row, used, segment = row + 1, 0, 0
    segment += 1
    places.append((start, stop, row, used, segment))
    used += stop - start
  shape = (row + 1 if places else 0, length)
  columns = {
    'token_BL': trace.token_T,
    'position_BL': trace.position_T,
    'document_BL': trace.document_T,
  }
  arrays = {name: np.zeros(shape, np.int32) for name in columns}
  segment_BL = np.zeros(shape, np.int32)
  for start, stop, row, used, segment in places:
    place = row, slice(used, used + stop - start)
    segment_BL[place] = segment
    for name, values in columns.items():
      arrays[name][place] = values[start:stop]
  return Rows(segment_BL=segment_BL, **arrays)


def expert_weights(model: Model, weights: Weights) -> Sequence[np.ndarray]:
  """Of each layer, the weights of its experts, flattened: [E, P].

  A layer is read from its device when it is indexed.

  Raises:
    InputError: the model has no experts with weights of their own.
  """
  layers = weights.get('moe', {}).get('ffn', {})
  routed = layers.get('routed', {})
  if 'low_rank' in layers:
    routed = low_rank.summed(routed, layers['low_rank'])
  own = [
    routed[name]
    for name in sorted(routed)
    if model.axes[f'moe/ffn/routed/{name}'][1] in rules.EXPERTS
  ]
  if not own:
    raise errors.InputError(
      'the model has no experts with weights of their own to compare'
    )
  return _Layers(own, model.config.num_moe)


@dataclasses.dataclass(frozen=True)
class _Layers(Sequence[np.ndarray]):
  """Flattened weights by layer, made when they are indexed."""

  arrays: list[jax.Array]
  num_layers: int

  def __len__(self) -> int:
    return self.num_layers

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[n] for n in range(*index.indices(len(self)))]
    layers = [np.asarray(jax.device_get(x[index])) for x in self.arrays]
    return np.concatenate([x.reshape(len(x), -1) for x in layers], axis=1)


def expert_outputs(
  model: Model, weights: Weights, trace: Trace, *, limit: int = 0
) -> Iterator[ExpertOutputs]:
  """The outputs of the chosen experts, batch by batch and layer by layer.

  The output of one expert is what its layer adds to the tokens if it alone is
  chosen, with the weight 1, beyond what it adds without any. A dropped
  assignment has no output, as if it had not been chosen.

  Args:
    model: the network, on its mesh.
    weights: its weights.
    trace: the tokens.
    limit: number of batches; 0 for all.

  Raises:
    InputError: the model has no routed experts.
  """
  config = model.config
  if not (config.num_moe and config.is_routed):
    raise errors.InputError(
      'the model has no layer with routed experts: there are no outputs to '
      'compare'
    )
  rows = pack(trace, config.max_length)
  shards = meshes.batch_size(model.mesh)
  num = -(-max(1, TOKENS // rows.token_BL.shape[1]) // shards) * shards
  starts = range(0, len(rows.token_BL), num)
  for start in starts[:limit] if limit else starts:
    batch = _batch(rows, start, num)
    yield from _of_batch(model, weights, batch)


def _batch(rows: Rows, start: int, num: int) -> Rows:
  """`num` rows from a row on; the last batch is filled with padding."""
  arrays = {}
  for field in dataclasses.fields(Rows):
    x_BL = getattr(rows, field.name)[start : start + num]
    arrays[field.name] = np.pad(x_BL, ((0, num - len(x_BL)), (0, 0)))
  return Rows(**arrays)


def _of_batch(
  model: Model, weights: Weights, rows: Rows
) -> Iterator[ExpertOutputs]:
  """The outputs of one batch by layer."""
  config, programs = model.config, _programs(model)
  valid_BL = rows.segment_BL > 0
  x_BLD, tokens = programs.begin(
    weights, rows.token_BL, rows.segment_BL, rows.position_BL
  )
  previous = feed_forward.no_previous_layer(config.moe, *valid_BL.shape)
  for place in layerwise.places(config):
    kind, index, spec = place.kind, place.index, place.spec
    if kind == 'moe':
      expert_BLK, output_BLKD = jax.device_get(
        programs.outputs(weights['moe'], x_BLD, previous, tokens, spec)
      )
      yield ExpertOutputs(
        layer=index,
        expert_TK=expert_BLK[valid_BL],
        output_TKD=output_BLKD[valid_BL],
        document_T=rows.document_BL[valid_BL],
      )
    x_BLD, previous = programs.layer[kind](
      weights[kind], x_BLD, previous, tokens, spec
    )


@dataclasses.dataclass(frozen=True)
class _Programs:
  """Compiled functions of one model; each serves all layers of a kind.

  Attributes:
    begin: weights, token_BL, segment_BL, position_BL -> x_BLD and the context
      of the tokens.
    outputs: weights of the layers with experts, x_BLD, previous, tokens, spec
      -> expert_BLK and output_BLKD.
    layer: by kind, the same arguments -> x_BLD and previous after the layer.
  """

  begin: Callable[..., tuple[jax.Array, TokenContext]]
  outputs: Callable[..., tuple[jax.Array, jax.Array]]
  layer: dict[str, Callable[..., tuple[jax.Array, Any]]]


@functools.lru_cache(maxsize=2)
def _programs(model: Model) -> _Programs:
  """The functions of a model."""
  layers = layerwise.Layers.of(model)

  def block(kind: str, stack: Weights, index: jax.Array) -> Block:
    return layers.block(kind, jax.tree.map(lambda x: x[index], stack))

  @jax.jit
  def begin(weights, token_BL, segment_BL, position_BL):
    decoder = model.bind(weights)
    tokens = decoder.token_context(token_BL, segment_BL, position_BL)
    return decoder.embed(token_BL), tokens

  @jax.jit
  def outputs(stack, x_BLD, previous, tokens, spec):
    layer = block('moe', stack, spec.index)
    h_BLD = layer.feed_forward_input(x_BLD, tokens, spec)
    return _of_layer(layer.ffn, h_BLD, previous, tokens, spec.index)

  def after(kind):
    @jax.jit
    def run(stack, x_BLD, previous, tokens, spec):
      layer = block(kind, stack, spec.index)
      x_BLD, previous, _ = layer(x_BLD, previous, tokens, None, spec)
      return x_BLD, previous

    return run

  return _Programs(
    begin, outputs, {kind: after(kind) for kind in layers.graphs}
  )


def _of_layer(
  ffn: Any, h_BLD: jax.Array, previous: Any, tokens: TokenContext, index: Any
) -> tuple[jax.Array, jax.Array]:
  """expert_BLK and float32 output_BLKD of the tokens of one layer."""
  info = TokenInfo(
    tokens.segment_BL != 0,
    tokens.index_BL,
    tokens.token_BL,
    routes=RoutesRequest(),
  )
  _, _, record = ffn(h_BLD, info, previous, None, index)
  routes = record.routes
  expert_BLK = jnp.where(routes.dropped_BLK, NOWHERE, routes.expert_BLK)

  def out(chosen_BLK: jax.Array) -> jax.Array:
    replayed = Replayed(
      jnp.where(chosen_BLK, expert_BLK, NOWHERE),
      chosen_BLK.astype(jnp.float32),
    )
    alone = dataclasses.replace(info, routes=None, replayed=replayed)
    out_BLD, _, _ = ffn(h_BLD, alone, previous, None, index)
    return out_BLD.astype(jnp.float32)

  rank_K = jnp.arange(expert_BLK.shape[2])
  has_BLK = expert_BLK != NOWHERE
  rest_BLD = out(jnp.zeros_like(has_BLK))
  # One rank after the other, so that memory is that of one.
  output_KBLD = jax.lax.map(
    lambda rank: out(has_BLK & (rank_K == rank)) - rest_BLD, rank_K
  )
  return expert_BLK, jnp.moveaxis(output_KBLD, 0, 2)
