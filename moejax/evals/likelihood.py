"""Log-probabilities of target tokens, in batches of few shapes.

  scores = log_probs(model, weights, [Scored(ids, targets), ...])

Requests with the same ids share a row: the letters of a question with options
A to D are four targets of one row. Rows are sorted by length, the longest
first, and the length of a batch is a bucket, so that few shapes are compiled
and little is padded. `shared_prefix.py` reads a prefix that several rows have
in common once.

The results do not depend on the batches or the mesh, except for rounding and
for routers in which tokens compete: expert choice, and limited capacity.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import best
from moejax.evals import shapes as shapes_lib
from moejax.evals.encoding import Scored
from moejax.evals.shapes import Shapes
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model, Weights
from moejax.model.decoder import Decoder
from moejax.parallel import hosts, rules
from moejax.parallel import mesh as meshes
from moejax.train import cross_entropy

# Most targets of a row; requests beyond them get a row of their own.
MAX_TARGETS = 8

# (log-probability of each target in nats, whether it is the most probable).
TokenScores = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class Row:
  """Ids that are read once, for one or more requests.

  Attributes:
    ids: what the model reads.
    first: index of the first id whose output is used.
    requests: indices of the requests.
  """

  ids: tuple[int, ...]
  first: int
  requests: list[int]


@dataclasses.dataclass(frozen=True)
class Targets:
  """The targets of a batch of R rows, K requests each, M tokens each.

  Attributes:
    target_RKM: int32; column m is the token after id `first + m` of the row.
    places: (request, row, index within its row, columns) of each request.
  """

  target_RKM: np.ndarray
  places: list[tuple[int, int, int, slice]]


def rows_of(requests: Sequence[Scored]) -> list[Row]:
  """One row for all requests with the same ids, up to MAX_TARGETS of them."""
  rows: list[Row] = []
  by_ids: dict[tuple[int, ...], Row] = {}
  for index, request in enumerate(requests):
    row = by_ids.get(request.ids)
    if row is None or len(row.requests) == MAX_TARGETS:
      row = Row(request.ids, request.prefix, [])
      by_ids[request.ids] = row
      rows.append(row)
    row.first = min(row.first, request.prefix)
    row.requests.append(index)
  return rows


def targets(
  rows: Sequence[Row],
  num_rows: int,
  requests: Sequence[Scored],
  shapes: Shapes,
) -> Targets:
  """The targets of some rows, padded to `num_rows` rows."""
  most = max(len(row.requests) for row in rows)
  longest = max(len(row.ids) - row.first for row in rows)
  shape = num_rows, shapes.bucket(most), shapes.bucket(longest)
  target_RKM = np.zeros(shape, np.int32)
  places = []
  for r, row in enumerate(rows):
    for k, index in enumerate(row.requests):
      request = requests[index]
      begin = request.prefix - row.first
      columns = slice(begin, begin + len(request.targets))
      target_RKM[r, k, columns] = request.targets
      places.append((index, r, k, columns))
  return Targets(target_RKM, places)


def put(model: Model, tree: Any, num_rows: int) -> Any:
  """Arrays of `num_rows` rows, of which each process puts those it holds."""
  mine = hosts.my_rows(num_rows, model.mesh)
  if mine is not None:
    tree = jax.tree.map(lambda x: x[mine], tree)
  return hosts.put_rows(tree, model.mesh, mine, num_rows)


def collect(
  scores: dict[int, TokenScores],
  batch: Targets,
  arrays: tuple[jax.Array, jax.Array],
) -> None:
  """Adds the scores of a batch to those of all requests."""
  log_prob_RKM, greedy_RKM = (hosts.fetch(x) for x in arrays)
  for index, r, k, columns in batch.places:
    scores[index] = log_prob_RKM[r, k, columns], greedy_RKM[r, k, columns]


def log_probs(
  model: Model,
  weights: Weights,
  requests: Sequence[Scored],
  rows: Sequence[Row] | None = None,
  *,
  shapes: Shapes | None = None,
  track: Track = untracked,
) -> dict[int, TokenScores]:
  """The scores of the targets of each request, by its index.

  Args:
    model: the network.
    weights: its weights, on its devices.
    requests: what to score.
    rows: rows of those requests; None for `rows_of(requests)`.
    shapes: the rule for sizes of batches; None for that of `shapes.choose`.
    track: shows the progress through rows.
  """
  rows = rows_of(requests) if rows is None else rows
  if shapes is None:
    lengths = (len(row.ids) for row in rows)
    shapes = shapes_lib.choose(model, weights, lengths)
  rows = sorted(rows, key=functools.partial(_size, shapes), reverse=True)
  scores: dict[int, TokenScores] = {}
  run = functools.partial(_whole, model, weights)
  batches = _batches(rows, shapes)
  ahead: list[Any] = []
  for batch in tracked(batches, track, 'Scoring', rows):
    ahead.append(_dispatch(model, run, batch, requests, shapes))
    # One batch is computed while the next is prepared.
    if len(ahead) > 1:
      collect(scores, *ahead.pop(0))
  for done in ahead:
    collect(scores, *done)
  return scores


def tracked(
  batches: Iterable[list[Row]], track: Track, text: str, rows: Sequence[Row]
) -> Iterator[list[Row]]:
  """The batches, shown as progress through their rows."""
  shown = track(range(len(rows)), text, len(rows))
  for batch in batches:
    yield batch
    for _ in batch:
      next(shown, None)
  next(shown, None)  # its end


def _size(shapes: Shapes, row: Row) -> tuple[int, int]:
  """The rounded length of a row, and that of its part that is scored."""
  return shapes.bucket(len(row.ids)), shapes.bucket(len(row.ids) - row.first)


def _batches(rows: Sequence[Row], shapes: Shapes) -> Iterator[list[Row]]:
  """Rows in batches, each as long as its first row, which is its longest."""
  at = 0
  while at < len(rows):
    size = _size(shapes, rows[at])
    batch = list(rows[at : at + shapes.full_rows(size[0])])
    if shapes.few:
      batch = [row for row in batch if _size(shapes, row) == size]
    yield batch
    at += len(batch)


def _dispatch(
  model: Model,
  run: Callable[..., tuple[jax.Array, jax.Array]],
  batch: Sequence[Row],
  requests: Sequence[Scored],
  shapes: Shapes,
) -> tuple[Targets, tuple[jax.Array, jax.Array]]:
  """Starts the computation of one batch."""
  length = shapes.bucket(max(len(row.ids) for row in batch))
  count = shapes.rows(len(batch), shapes.full_rows(length))
  token_RL = np.zeros((count, length), np.int32)
  length_R, first_R = np.zeros((2, count), np.int32)
  for r, row in enumerate(batch):
    token_RL[r, : len(row.ids)] = row.ids
    length_R[r], first_R[r] = len(row.ids), row.first
  aims = targets(batch, count, requests, shapes)
  arrays = put(model, (token_RL, length_R, first_R, aims.target_RKM), count)
  return aims, run(*arrays)


@functools.partial(jax.jit, static_argnums=0)
def _whole(
  model: Model,
  weights: Weights,
  token_RL: jax.Array,
  length_R: jax.Array,
  first_R: jax.Array,
  target_RKM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Reads whole rows; `score_hidden` of their targets."""
  decoder = model.bind(weights)
  place_L = jnp.arange(token_RL.shape[1])
  valid_RL = place_L < length_R[:, None]
  position_RL = jnp.where(valid_RL, place_L, 0)
  out = decoder(token_RL, valid_RL.astype(jnp.int32), position_RL)
  column_RM = first_R[:, None] + jnp.arange(target_RKM.shape[2])
  column_RM = jnp.minimum(column_RM, token_RL.shape[1] - 1)
  x_RMD = jnp.take_along_axis(out.x_BLD, column_RM[..., None], axis=1)
  return score_hidden(model, decoder, x_RMD, target_RKM)


def score_hidden(
  model: Model, decoder: Decoder, x_RMD: jax.Array, target_RKM: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of targets, and whether they are the most probable.

  The logits are computed chunk by chunk, so that those of a whole batch are
  never in memory. The most probable token is the lowest id among equals.

  Args:
    model: the network.
    decoder: the network with its weights.
    x_RMD: normalised hidden states.
    target_RKM: int32, K targets for each.

  Returns:
    float32 and bool arrays [R, K, M], which every device has.
  """
  R, K, M = target_RKM.shape
  shards = meshes.batch_size(model.mesh)
  chunk = max(1, cross_entropy.chunk_tokens(model.mesh) * shards // R)
  num_chunks = -(-M // min(chunk, M))
  size = -(-M // num_chunks)
  pad = num_chunks * size - M
  x_RMD = jnp.pad(x_RMD, ((0, 0), (0, pad), (0, 0)))
  target_RKM = jnp.pad(target_RKM, ((0, 0), (0, 0), (0, pad)))
  x_RNCD = x_RMD.reshape(R, num_chunks, size, -1)
  target_RKNC = target_RKM.reshape(R, K, num_chunks, size)
  by_row = ('unsharded', 'batch')
  split = lambda x: rules.constrain(x, by_row, model.mesh)

  def one(chunk):
    x_RCD, target_RCK = chunk
    logit_RCV = decoder.logits(x_RCD)
    total_RC1 = jax.nn.logsumexp(logit_RCV, axis=-1, keepdims=True)
    top_RC1 = best.last_axis(logit_RCV)
    own_RCK = jnp.take_along_axis(logit_RCV, target_RCK, axis=-1)
    return own_RCK - total_RC1, target_RCK == top_RC1

  chunks = jnp.moveaxis(x_RNCD, 1, 0), jnp.transpose(target_RKNC, (2, 0, 3, 1))
  scores = jax.lax.map(one, jax.tree.map(split, chunks))

  def join(x_NRCK):
    x_RKNC = jnp.transpose(x_NRCK, (1, 3, 0, 2))
    x_RKM = x_RKNC.reshape(R, K, num_chunks * size)[..., :M]
    return rules.constrain(x_RKM, ('unsharded',), model.mesh)

  log_prob, greedy = scores
  return join(log_prob), join(greedy)
