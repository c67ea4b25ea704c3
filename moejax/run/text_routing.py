"""Text routing: the experts of every token of a text, by one pass over it."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from moejax.analysis.interventions import base
from moejax.analysis.trace import Trace
from moejax.data.vocab import Vocab
from moejax.evals import likelihood, shapes
from moejax.evals.spoken import Spoken
from moejax.model.build import Model, Weights
from moejax.moe.routes import Routes, RoutesRequest
from moejax.parallel import hosts


@dataclasses.dataclass(frozen=True)
class Shown:
  """Which routings are shown.

  Attributes:
    layers: indices among the layers with experts, in order.
    rank: 0 for each token's expert with the largest weight, and so on; None
      for all of its experts.
  """

  layers: tuple[int, ...]
  rank: int | None


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a model did with the T tokens of a text that it read.

  Attributes:
    trace: their experts.
    nats_T: float32, loss of each token given those before it; nan for the
      first, before which there is none.
  """

  trace: Trace
  nats_T: np.ndarray


def read(
  model: Model, weights: Weights, ids: Sequence[int], step: int
) -> Reading:
  """Reads a text once.

  The text has a row of exactly its own length: padding would give experts of
  limited capacity more room.

  Args:
    model: the network.
    weights: its weights.
    ids: the text, with what texts begin with.
    step: of the weights' checkpoint.
  """
  rows = shapes.padded(model, 1)
  token_BL = np.zeros((rows, len(ids)), np.int32)
  token_BL[0] = ids
  segment_BL = np.zeros_like(token_BL)
  segment_BL[0] = 1
  arrays = likelihood.put(model, (token_BL, segment_BL), rows)
  weights = jax.device_put(weights, model.shardings)
  routes, log_prob_BL = _read(model, weights, *arrays)
  routes = jax.tree.map(lambda x: hosts.fetch(x)[:, 0], routes)
  trace = Trace(
    step=step,
    tokens_seen=0,
    layers=base.layers_with_experts(model.config),
    num_experts=model.config.moe.num_choices,
    domains=('prompt',),
    expert_TNK=np.moveaxis(routes.expert_BLK, 0, 1).astype(np.int16),
    weight_TNK=np.moveaxis(routes.weight_BLK, 0, 1),
    dropped_TNK=np.moveaxis(routes.dropped_BLK, 0, 1),
    entropy_TN=np.moveaxis(routes.entropy_BL, 0, 1),
    token_T=token_BL[0],
    position_T=np.arange(len(ids), dtype=np.int32),
    document_T=np.zeros(len(ids), np.int32),
    domain_T=np.zeros(len(ids), np.int16),
  )
  # The last output predicts a token after the text.
  nats_T: np.ndarray = np.full(len(ids), np.nan, np.float32)
  nats_T[1:] = -hosts.fetch(log_prob_BL)[0, :-1]
  return Reading(trace, nats_T)


@functools.partial(jax.jit, static_argnums=0)
def _read(
  model: Model, weights: Weights, token_BL: jax.Array, segment_BL: jax.Array
) -> tuple[Routes, jax.Array]:
  """Routes [N, B, L, ...], and log-probabilities of each next token."""
  decoder = model.bind(weights)
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)
  out = decoder(token_BL, segment_BL, position_BL, routes=RoutesRequest())
  target_BL = jnp.roll(token_BL, -1, axis=1)
  log_prob_BKM, _ = likelihood.score_hidden(
    model, decoder, out.x_BLD, target_BL[:, None]
  )
  assert out.record.routes is not None  # they were asked for
  return out.record.routes, log_prob_BKM[:, 0]


def behind(reading: Reading, start: int) -> Reading:
  """What a model did with the tokens of a text from number `start` on."""
  by_token = {
    field.name: getattr(reading.trace, field.name)
    for field in dataclasses.fields(reading.trace)
    if field.name.partition('_')[2].startswith('T')
  }
  rest = {
    name: value[start:] for name, value in by_token.items() if value is not None
  }
  trace = dataclasses.replace(reading.trace, **rest)
  return Reading(trace, reading.nats_T[start:])


def num_ranks(model: Model) -> int:
  """K, the most experts of a token; computes nothing."""
  token_BL = jax.ShapeDtypeStruct((shapes.padded(model, 1), 1), jnp.int32)
  run = functools.partial(_read, model)
  routes, _ = jax.eval_shape(run, model.shapes, token_BL, token_BL)
  return routes.expert_BLK.shape[-1]


def pieces_of(vocab: Vocab, ids: Sequence[int]) -> list[str]:
  """The text that each id completes; the pieces together are the whole text.

  An id that is less than a character is '', and the id that completes the
  character has all of it.
  """
  spoken = Spoken(vocab)
  pieces = [spoken.add(token) for token in ids]
  pieces[-1] += spoken.rest()
  return pieces
