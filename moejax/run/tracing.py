"""Traces a model: what its routers do with each token of a text.

`trace` computes it batch by batch, `write` makes a file of it. Two threads work
at once: one prepares the next batch and waits for the devices, the other writes
the batches before.
"""

import collections
import concurrent.futures
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.analysis.trace import Trace
from moejax.analysis.trace_file import Header
from moejax.analysis.trace_writer import TraceWriter
from moejax.core import errors
from moejax.data.batch import Batch
from moejax.evals import batches as evaluated
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model, Weights
from moejax.moe.routes import RoutesRequest
from moejax.run.traced_text import DocumentNumbers, TracedText

# Batches that wait to be written; with those being computed and written at most
# QUEUED + 3 batches are in memory.
QUEUED = 2


def trace(
  model: Model,
  weights: Weights,
  text: TracedText,
  *,
  step: int = 0,
  tokens_seen: int = 0,
  logits: bool = False,
  track: Track = untracked,
) -> Iterator[Trace]:
  """The routings of a model, batch by batch, in the order of the text.

  The batches are those of an evaluation, or smaller ones where that cannot
  change a routing; see `rows_per_batch`. Padding is left out.

  Args:
    model: the network, on its mesh.
    weights: its weights.
    text: the rows.
    step: optimiser steps behind the weights, for `Trace`.
    tokens_seen: tokens that they were trained on, for `Trace`.
    logits: whether the router's logits are traced as well.
    track: shows the progress through the batches of a domain.

  Raises:
    InputError: the model has no layer with routed experts, or this is one of
      several processes.
  """
  layers = layers_of(model)
  compute = _program(model, logits)
  finish = functools.partial(
    _finish,
    layers=layers,
    step=step,
    tokens_seen=tokens_seen,
    num_experts=model.config.moe.num_choices,
    in_use=choices_of(model),
    domains=tuple(text.readers),
  )
  numbers = DocumentNumbers(text.eos_id)
  size = rows_per_batch(model, text)
  for domain, (name, reader) in enumerate(text.readers.items()):
    numbers.begin_domain()
    rows = text.num_rows[name]
    limit = -(-rows // size)
    batches = track(
      evaluated.eval_batches(model, reader, limit, size),
      f'Tracing {name}',
      evaluated.num_eval_batches(model, reader, limit, size),
    )
    waiting: tuple[Batch, Any] | None = None
    for batch in batches if rows else ():
      begun = batch, compute(weights, batch)
      if waiting is not None:
        # The devices compute this batch meanwhile.
        yield finish(*waiting, rows, domain, numbers)
        rows -= len(waiting[0].token_BL)
      waiting = begun
    if waiting is not None:
      yield finish(*waiting, rows, domain, numbers)


def rows_per_batch(model: Model, text: TracedText) -> int:
  """Rows of a batch that is traced, the same for all domains.

  It is that of an evaluation, or the most rows that are traced of a domain if
  these are fewer: rows that are not traced need not be computed. Where the
  tokens of other rows may change a routing the batch is that of an evaluation:
  where tokens compete for experts, and where devices exchange tokens and leave
  out those that have no room.
  """
  usual = evaluated.rows_per_batch(model)
  exchanged = model.mesh.shape['expert'] > 1
  if exchanged or model.config.moe.router.tokens_compete:
    return usual
  most = max(text.num_rows.values(), default=usual)
  return min(evaluated.rows_per_batch(model, max(most, 1)), usual)


def choices_of(model: Model) -> tuple[tuple[int, ...], ...]:
  """Numbers of the choices that each layer has; see `Trace.in_use`."""
  used_NE = model.config.moe.used_choices
  if used_NE is None:
    return ()
  return tuple(tuple(np.flatnonzero(used_E).tolist()) for used_E in used_NE)


def layers_of(model: Model) -> tuple[int, ...]:
  """Numbers in the model of the layers with routed experts, from 0.

  Raises:
    InputError: there is none, or this is one of several processes.
  """
  if jax.process_count() > 1:
    raise errors.InputError(
      f'traces are written by one process, and this is one of '
      f'{jax.process_count()}: start the command on one machine'
    )
  if not model.config.num_moe:
    raise errors.InputError(
      'the model has no layer with routed experts: there is no routing to trace'
    )
  kinds = enumerate(model.config.kinds)
  return tuple(number for number, kind in kinds if kind == 'moe')


@functools.lru_cache(maxsize=4)
def _program(model: Model, logits: bool) -> Callable[[Weights, Batch], Any]:
  """A jitted function from a batch to the routings of its tokens.

  It gives the arrays of a `Trace` by field, with the axes B and L in place of
  T, ids as int16.
  """

  @jax.jit
  def routings(weights: Weights, batch: Batch) -> dict[str, jax.Array]:
    out = model.bind(weights)(
      batch.token_BL,
      batch.segment_BL,
      batch.position_BL,
      images=batch.images,
      routes=RoutesRequest(logits=logits),
    )
    routes = out.record.routes
    assert routes is not None  # `layers_of` has refused dense models
    by_layer: dict[str, Any] = {
      'expert_TNK': routes.expert_BLK.astype(jnp.int16),
      'weight_TNK': routes.weight_BLK,
      'dropped_TNK': routes.dropped_BLK,
      'entropy_TN': routes.entropy_BL,
    }
    if logits:
      by_layer['logits_TNE'] = routes.logits_BLE
    return {field: jnp.moveaxis(x, 0, 2) for field, x in by_layer.items()}

  return routings


def _finish(
  batch: Batch,
  routings: dict[str, jax.Array],
  rows: int,
  domain: int,
  numbers: DocumentNumbers,
  *,
  layers: tuple[int, ...],
  **constants: Any,
) -> Trace:
  """The trace of a batch, whose first `rows` rows are traced."""
  batch, routings = jax.device_get((batch, routings))
  batch, routings = jax.tree.map(lambda x: x[:rows], (batch, routings))
  real_BL = batch.segment_BL > 0
  arrays: dict[str, Any] = {f: x[real_BL] for f, x in routings.items()}
  return Trace(
    layers=layers,
    token_T=batch.token_BL[real_BL],
    position_T=batch.position_BL[real_BL],
    document_T=numbers.of(batch)[real_BL],
    domain_T=np.full(np.count_nonzero(real_BL), domain, np.int16),
    **arrays,
    **constants,
  )


def write(path: pathlib.Path, header: Header, traces: Iterator[Trace]) -> int:
  """Writes a trace file in a thread, while the next batches are computed.

  Returns:
    The number of tokens.

  Raises:
    StoppedError: the disk is full; see `TraceWriter.add`.
  """
  queued: collections.deque[concurrent.futures.Future[None]] = (
    collections.deque()
  )
  with (
    TraceWriter(path, header) as writer,
    concurrent.futures.ThreadPoolExecutor(1, 'moejax-trace') as thread,
  ):
    for batch in traces:
      queued.append(thread.submit(writer.add, batch))
      del batch
      while len(queued) > QUEUED:
        queued.popleft().result()
    while queued:
      queued.popleft().result()
  return writer.tokens
