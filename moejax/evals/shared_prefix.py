"""Rows with a common prefix: the prefix is read once, into a key-value cache.

The options of a question follow the same context. Without sharing, a model
reads the context once for each of them:

  context option A          context | option A
  context option B                  | option B
  context option C                  | option C

A batch has G groups of n rows each. The cache of a group's prefix is copied to
its n rows, which then read their own ends.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.evals import likelihood
from moejax.evals import shapes as shapes_lib
from moejax.evals.encoding import Scored
from moejax.evals.likelihood import Row, TokenScores
from moejax.evals.shapes import Shapes
from moejax.evals.subject import Track, untracked
from moejax.model.attention import cache as caches
from moejax.model.build import Model, Weights
from moejax.model.config import ModelConfig
from moejax.parallel import rules

# Tokens of prefixes that are read at a time. Prefixes of all lengths share one
# compiled shape.
CHUNK = 128
FEW_CHUNK = 64  # where shapes are to be few, and every chunk is a whole one
# Prefixes shorter than this are not worth a cache.
MIN_PREFIX = 8
# Most rows of a group; others get the prefix read for themselves.
MAX_GROUP = 16


def log_probs(
  model: Model,
  weights: Weights,
  requests: Sequence[Scored],
  *,
  tokens: int = 0,
  few: bool | None = None,
  track: Track = untracked,
) -> dict[int, TokenScores]:
  """As `likelihood.log_probs`, with common prefixes read once."""
  rows = likelihood.rows_of(requests)
  alone, groups = split(rows, share=not by_length(model.config))
  lengths = [len(row.ids) for row in alone]
  lengths += [len(row.ids) - row.first for group in groups for row in group]
  lengths += [group[0].first for group in groups]
  shapes = shapes_lib.choose(model, weights, lengths, tokens)
  if few is not None:
    shapes = dataclasses.replace(shapes, few=few)
  scores = likelihood.log_probs(
    model, weights, requests, alone, shapes=shapes, track=track
  )
  shared = [row for group in groups for row in group]
  batches = list(_batches(groups, shapes))
  joined = ([row for group in batch for row in group] for batch in batches)
  ahead: list[Any] = []
  shown = likelihood.tracked(joined, track, 'Scoring options', shared)
  for batch, _ in zip(batches, shown, strict=True):
    ahead.append(_dispatch(model, weights, batch, requests, shapes))
    if len(ahead) > 1:
      likelihood.collect(scores, *ahead.pop(0))
  for done in ahead:
    likelihood.collect(scores, *done)
  return scores


def by_length(config: ModelConfig) -> bool:
  """Whether a token's rotary angles depend on the length of its whole text.

  Texts of different lengths then have different keys for the same prefix.
  """
  asked = []

  def longest() -> jax.Array:
    asked.append(True)
    return jnp.zeros((1, 1), jnp.int32)

  dim = config.heads.rotary_dim(config)
  config.rope.scaling.per_token(config.rope.base, dim, longest)
  return bool(asked)


def split(
  rows: Sequence[Row], *, share: bool = True
) -> tuple[list[Row], list[list[Row]]]:
  """(rows that are read whole, groups of rows with the same prefix)."""
  by_prefix: dict[tuple[int, ...], list[list[Row]]] = {}
  for row in rows:
    groups = by_prefix.setdefault(row.ids[: row.first], [[]])
    if len(groups[-1]) == MAX_GROUP:
      groups.append([])
    groups[-1].append(row)
  alone, shared = [], []
  for prefix, groups in by_prefix.items():
    for group in groups:
      if share and len(group) > 1 and len(prefix) >= MIN_PREFIX:
        shared.append(group)
      else:
        alone += group
  return alone, shared


def _batches(
  groups: Sequence[list[Row]], shapes: Shapes
) -> Iterator[list[list[Row]]]:
  """Groups of equally many rows, those with the longest prefixes first."""
  rank = functools.partial(_rank, shapes)
  groups = sorted(groups, key=rank, reverse=True)
  at = 0
  while at < len(groups):
    group = groups[at]
    batch = [
      other
      for other in groups[at : at + _full(group, shapes)]
      if (rank(other) == rank(group) if shapes.few else _same(other, group))
    ]
    yield batch
    at += len(batch)


def _same(one: list[Row], other: list[Row]) -> bool:
  return len(one) == len(other)


def _rank(shapes: Shapes, group: list[Row]) -> tuple[int, int, int]:
  """The order of groups; where shapes are few, one batch has one rank."""
  first, end = group[0].first, _longest_end(group)
  if shapes.few:
    size = shapes.bucket(end)
    width = first + -first % FEW_CHUNK
    return len(group), shapes.bucket(max(width, first + size)), size
  return len(group), shapes.bucket(first), end


def _full(group: list[Row], shapes: Shapes) -> int:
  """Groups of a full batch that begins with this one."""
  slots = shapes.bucket(group[0].first + _longest_end(group))
  if shapes.few:
    _, slots, _ = _rank(shapes, group)
  return shapes.full_rows(slots * len(group), 2)


def _longest_end(group: Sequence[Row]) -> int:
  return max(len(row.ids) - row.first for row in group)


def _dispatch(
  model: Model,
  weights: Weights,
  batch: Sequence[list[Row]],
  requests: Sequence[Scored],
  shapes: Shapes,
) -> tuple[likelihood.Targets, tuple[jax.Array, jax.Array]]:
  """Starts the computation of one batch of groups."""
  num_groups = shapes.rows(len(batch), _full(batch[0], shapes))
  num_each = len(batch[0])
  num_rows = num_groups * num_each
  rows = [row for group in batch for row in group]
  aims = likelihood.targets(rows, num_rows, requests, shapes)
  longest = max(group[0].first for group in batch)
  chunk = FEW_CHUNK if shapes.few else min(CHUNK, shapes.bucket(longest))
  width = -(-longest // chunk) * chunk
  token_GL = np.zeros((num_groups, width), np.int32)
  length_G = np.zeros(num_groups, np.int32)
  for g, group in enumerate(batch):
    first = group[0].first
    token_GL[g, :first] = group[0].ids[:first]
    length_G[g] = first
  end_RM = np.zeros((num_rows, aims.target_RKM.shape[2]), np.int32)
  size_R = np.zeros(num_rows, np.int32)
  for r, row in enumerate(rows):
    own = row.ids[row.first :]
    end_RM[r, : len(own)] = own
    size_R[r] = len(own)
  # Room for padding as well, which is written behind the tokens.
  slots = shapes.bucket(max(width, longest + end_RM.shape[1]))
  length_G = likelihood.put(model, length_G, num_groups)
  cache = _empty(model, num_groups, slots)
  for start in range(0, width, chunk):
    chunk_GC = token_GL[:, start : start + chunk]
    chunk_GC = likelihood.put(model, chunk_GC, num_groups)
    cache = _read(model, weights, cache, chunk_GC, start, length_G)
  ends = likelihood.put(model, (end_RM, size_R, aims.target_RKM), num_rows)
  return aims, _ends(model, weights, cache, length_G, *ends)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _empty(model: Model, rows: int, slots: int) -> caches.KVCache:
  return _laid(model, caches.empty(model.config, rows, slots))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read(
  model: Model,
  weights: Weights,
  cache: caches.KVCache,
  token_GC: jax.Array,
  start: jax.Array,
  length_G: jax.Array,
) -> caches.KVCache:
  """Reads a chunk of all prefixes, whose first token is at `start`."""
  position_C = start + jnp.arange(token_GC.shape[1])
  position_GC = jnp.broadcast_to(position_C, token_GC.shape)
  valid_GC = position_GC < length_G[:, None]
  _, cache = model.bind(weights).advance(token_GC, position_GC, valid_GC, cache)
  return _laid(model, cache)


@functools.partial(jax.jit, static_argnums=0)
def _ends(
  model: Model,
  weights: Weights,
  cache: caches.KVCache,
  length_G: jax.Array,
  token_RM: jax.Array,
  size_R: jax.Array,
  target_RKM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Reads the ends of rows after their prefixes; `score_hidden` of targets."""
  each = token_RM.shape[0] // length_G.shape[0]
  cache = jax.tree.map(lambda x: jnp.repeat(x, each, axis=1), cache)
  decoder = model.bind(weights)
  place_M = jnp.arange(token_RM.shape[1])
  position_RM = jnp.repeat(length_G, each)[:, None] + place_M
  valid_RM = place_M < size_R[:, None]
  x_RMD, _ = decoder.advance(
    token_RM, position_RM, valid_RM, _laid(model, cache)
  )
  return likelihood.score_hidden(model, decoder, x_RMD, target_RKM)


def _laid(model: Model, cache: caches.KVCache) -> caches.KVCache:
  """The cache, split over the mesh by rows."""
  by_row = lambda x: rules.constrain(x, ('layers', 'batch'), model.mesh)
  return jax.tree.map(by_row, cache)
