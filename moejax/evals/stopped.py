"""Continues prompts until a stop string, in batches, the longest first."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from moejax.core import errors
from moejax.data.vocab import Vocab
from moejax.evals import generate as generation
from moejax.evals.sampling import Sampling
from moejax.evals.subject import Track, untracked
from moejax.model.build import Model, Weights


@dataclasses.dataclass(frozen=True)
class Request:
  """A prompt to continue.

  Attributes:
    ids: ids of the prompt, with its start token.
    stops: strings that end the continuation, which are cut off.
    max_tokens: most new tokens.
    x_LD: embeddings that are read in place of those of the ids; None: those.
  """

  ids: tuple[int, ...]
  stops: tuple[str, ...]
  max_tokens: int
  x_LD: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """How all prompts are continued.

  Attributes:
    sampling: how the next token is chosen.
    end_ids: ids that end a text.
    silent_ids: ids that are not part of a text.
    seed: seed of sampling.
    rows: prompts of a batch.
  """

  sampling: Sampling
  end_ids: tuple[int, ...]
  silent_ids: tuple[int, ...] = ()
  seed: int = 0
  rows: int = 32


def check(stops: Sequence[str], max_tokens: int) -> None:
  """Raises InputError if a continuation cannot end so."""
  if '' in stops:
    raise errors.InputError(
      f'stop strings {stops!r}: a stop string must have a character; leave an '
      'empty one out'
    )
  if max_tokens < 1:
    raise errors.InputError(f'max_tokens={max_tokens} must be >= 1')


def before_stop(text: str, stops: Sequence[str]) -> str:
  """The text before the first of the stop strings; all of it without one.

  Example, stops ('.', '!'):  'a!b.c' becomes 'a'
  """
  for stop in stops:
    text = text.split(stop)[0]
  return text


def generate(
  model: Model,
  weights: Weights,
  vocab: Vocab,
  requests: Sequence[Request],
  settings: Settings,
  *,
  track: Track = untracked,
) -> list[str]:
  """The continuation of each prompt, in their order; see `Request`.

  A sampled continuation depends on the seed and on the index of its prompt
  within the batch.

  Args:
    model: the network.
    weights: its weights.
    vocab: its vocabulary.
    requests: the prompts.
    settings: how they are continued.
    track: shows the progress through prompts.
  """
  longest_first = sorted(
    range(len(requests)), key=lambda i: -len(requests[i].ids)
  )
  shown = track(range(len(requests)), 'Generating', len(requests))
  texts = [''] * len(requests)
  for at in range(0, len(requests), settings.rows):
    indices = longest_first[at : at + settings.rows]
    batch = [requests[i] for i in indices]
    seed = _seed(settings.seed, at)
    answers = _batch(model, weights, vocab, batch, settings, seed)
    for i, text in zip(indices, answers, strict=True):
      texts[i] = text
      next(shown, None)
  next(shown, None)  # its end
  return texts


def _seed(seed: int, at: int) -> int:
  """The seed of the batch that begins with prompt `at`.

  Sums of both would give one batch the seed that another has in the next
  sample.
  """
  if not at:
    return seed
  return int(np.random.SeedSequence((seed, at)).generate_state(1)[0]) >> 1


def _batch(
  model: Model,
  weights: Weights,
  vocab: Vocab,
  batch: Sequence[Request],
  settings: Settings,
  seed: int,
) -> list[str]:
  """The continuations of one batch, which ends when all of them have ended."""
  # A power of two of rows, so that few shapes are compiled.
  padded = 1 << (len(batch) - 1).bit_length()
  ids = [request.ids for request in batch]
  ids += [ids[-1]] * (min(padded, settings.rows) - len(ids))
  tokens = generation.stream(
    model,
    weights,
    ids,
    settings.sampling,
    max_new_tokens=max(request.max_tokens for request in batch),
    end_ids=settings.end_ids,
    seed=seed,
    start=(),
    embedding_BLD=_embeddings(batch),
  )
  new: list[list[int]] = [[] for _ in batch]
  silent = {*settings.end_ids, *settings.silent_ids}
  texts: dict[int, str] = {}
  for row, token in tokens:
    if row in texts or row >= len(batch):
      continue
    request = batch[row]
    new[row].append(token)
    text = vocab.decode(i for i in new[row] if i not in silent)
    kept = before_stop(text, request.stops)
    full = len(new[row]) == request.max_tokens
    if kept != text or full or token in settings.end_ids:
      texts[row] = kept
    if len(texts) == len(batch):
      break
  # Rows that have come to the end of the model's context.
  for row in range(len(batch)):
    if row not in texts:
      text = vocab.decode(i for i in new[row] if i not in silent)
      texts[row] = before_stop(text, batch[row].stops)
  return [texts[row] for row in range(len(batch))]


def _embeddings(batch: Sequence[Request]) -> np.ndarray | None:
  """The embeddings of all requests, padded; None if they have none.

  All requests of a batch have them, or none has.
  """
  rows = [request.x_LD for request in batch if request.x_LD is not None]
  if not rows:
    return None
  length = max(len(x_LD) for x_LD in rows)
  return np.stack([
    np.pad(x_LD, ((0, length - len(x_LD)), (0, 0))) for x_LD in rows
  ])
