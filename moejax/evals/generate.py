"""Continues prompts: reads them in chunks, then writes a token at a time.

Tokens are laid out as in training: the first input of a text is id 0, and the
model's output for the input at position p predicts the token at position p + 1.

Example, prompts [5, 8] and [7] in a chunk of 4:

    token_BL   [0, 5, 8, 0]   the outputs for 8 and 7 predict the first new
               [0, 7, 0, 0]   tokens, which get positions 3 and 2. Padding is
    valid_BL   [1, 1, 1, 0]   routed nowhere; its slots in the key-value cache
               [1, 1, 0, 0]   are overwritten before they are attended to.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors
from moejax.evals.sampling import Sampling
from moejax.model.attention import cache as caches
from moejax.model.build import Model, Weights
from moejax.parallel import hosts, rules
from moejax.parallel import mesh as meshes

# Tokens of a prompt that are read at a time, so that prompts of most lengths
# share a compiled shape. Few long prompts are read in chunks of up to WIDEST
# times as many, because each chunk reads the weights of most experts anew.
CHUNK = 64
WIDEST = 4
# With so many tokens of all rows, computing takes longer than reading weights.
ENOUGH_TOKENS = 1024
# The slots of a key-value cache are a multiple of this, so that few shapes are
# compiled.
SLOTS = 128


def generate(  # noqa: PLR0913 (all of a request)
  model: Model,
  weights: Weights,
  prompts: Sequence[Sequence[int]],
  sampling: Sampling,
  *,
  max_new_tokens: int,
  end_ids: Collection[int],
  seed: int = 0,
  start: Sequence[int] = (0,),
) -> list[list[int]]:
  """The new tokens of each prompt; see `stream`."""
  new: list[list[int]] = [[] for _ in prompts]
  for row, token in stream(
    model,
    weights,
    prompts,
    sampling,
    max_new_tokens=max_new_tokens,
    end_ids=end_ids,
    seed=seed,
    start=start,
  ):
    new[row].append(token)
  return new


def stream(  # noqa: PLR0913 (all of a request)
  model: Model,
  weights: Weights,
  prompts: Sequence[Sequence[int]],
  sampling: Sampling,
  *,
  max_new_tokens: int,
  end_ids: Collection[int],
  seed: int = 0,
  start: Sequence[int] = (0,),
  embedding_BLD: jax.Array | np.ndarray | None = None,
) -> Iterator[tuple[int, int]]:
  """Yields (index of the prompt, new token) as tokens are computed.

  A continuation ends with any of `end_ids`, which is yielded too; after
  `max_new_tokens`; or at the model's `max_length`. It depends on the seed and
  the index of the prompt, but not on the other prompts, except for rounding:
  the shapes of matrices depend on the number and lengths of all prompts.

  Args:
    model: the network.
    weights: its weights, as in a training state; may be numpy arrays.
    prompts: token ids without the leading `start`, of any lengths; may be
      empty.
    sampling: how the next token is chosen.
    max_new_tokens: most new tokens of each prompt.
    end_ids: ids that end a text; without any, it goes on to its limit.
    seed: seed of sampling.
    start: ids that every text begins with, put before each prompt that does
      not begin with them: 0 for a model trained here, else the start tokens of
      the model's tokenizer, if it has any.
    embedding_BLD: what is read in place of the embeddings of the prompts'
      tokens, from the first token of each row on, such as those with the
      features of images inserted; needs `start` ().

  Raises:
    InputError: a prompt is too long for the model, or has ids that the model
      does not know. It is raised before anything is computed.
  """
  check(model, prompts, max_new_tokens, start)
  inputs = [begun(p, start) for p in prompts]
  # The last new token needs no position, because it is never read.
  room = model.config.max_length + 1
  limits = [min(max_new_tokens, room - len(i)) for i in inputs]
  # Not a generator itself, which would check only when its first item is asked
  # for.
  ahead = _Ahead(inputs, limits, embedding_BLD)
  tokens = _tokens(model, weights, ahead, sampling, seed)
  return _until_done(tokens, limits, end_ids)


def begun(prompt: Sequence[int], start: Sequence[int]) -> list[int]:
  """A prompt with the ids that every text begins with, once.

  Example, start [1]:
    [5, 8]     [1, 5, 8]
    [1, 5, 8]  [1, 5, 8], which has its start already
  """
  if start and list(prompt[: len(start)]) == list(start):
    return list(prompt)
  return [*start, *prompt]


def check(
  model: Model,
  prompts: Sequence[Sequence[int]],
  max_new_tokens: int,
  start: Sequence[int] = (0,),
) -> None:
  """Raises InputError if the model cannot continue these prompts."""
  config = model.config
  if max_new_tokens < 1:
    raise errors.InputError(f'max_new_tokens={max_new_tokens} must be >= 1')
  for index, prompt in enumerate(prompts):
    added = len(begun(prompt, start)) - len(prompt)
    room = config.max_length - added
    if len(prompt) > room:
      raise errors.InputError(
        f'prompt {index} has {len(prompt)} tokens, but with model.max_length='
        f'{config.max_length} it may have {room}; shorten it'
      )
    if not prompt and not start:
      raise errors.InputError(
        f'prompt {index} is empty, and the vocabulary has nothing that a text '
        'begins with; give it a word'
      )
    wrong = [i for i in prompt if not 0 <= i < config.vocab_size]
    if wrong:
      raise errors.InputError(
        f'prompt {index} has the token id {wrong[0]}, but with '
        f'model.vocab_size={config.vocab_size} ids end at '
        f'{config.vocab_size - 1}; use the vocabulary of that model'
      )


def _until_done(
  tokens: Iterator[jax.Array], limits: Sequence[int], end_ids: Collection[int]
) -> Iterator[tuple[int, int]]:
  """Yields (row, token) until every row has ended; see `stream`.

  Args:
    tokens: token_B of all rows, step after step.
    limits: most new tokens of each row.
    end_ids: ids that end a row.
  """
  live = dict(enumerate(limits))
  while live:
    token_B = hosts.fetch(next(tokens))
    for row, left in list(live.items()):
      token = int(token_B[row])
      yield row, token
      live[row] = left - 1
      if token in end_ids or left == 1:
        del live[row]


@flax.struct.dataclass
class _Rows:
  """The state of B rows that are being written.

  Attributes:
    token_B: int32, the newest token of each row.
    position_B: int32, the position of that token.
    valid_B: False in rows that only fill up the mesh.
    key_B: random key of each row.
  """

  token_B: jax.Array
  position_B: jax.Array
  valid_B: jax.Array
  key_B: jax.Array


class _Ahead(NamedTuple):
  """What is read, and how much is written.

  Attributes:
    inputs: ids of each row.
    limits: most new tokens of each row.
    embedding_BLD: see `stream`.
  """

  inputs: Sequence[Sequence[int]]
  limits: Sequence[int]
  embedding_BLD: jax.Array | np.ndarray | None


def _tokens(
  model: Model, weights: Weights, ahead: _Ahead, sampling: Sampling, seed: int
) -> Iterator[jax.Array]:
  """Yields token_B of all rows, step after step; rows that end go on."""
  inputs, limits, embedding_BLD = ahead
  weights = jax.device_put(weights, model.shardings)
  # Rows that are not valid fill up the shards of the mesh.
  shards = meshes.batch_size(model.mesh)
  num_rows = -(-len(inputs) // shards) * shards
  inputs = [*inputs, *[[]] * (num_rows - len(inputs))]
  length_B = np.array([len(i) for i in inputs], np.int32)
  chunk = min(_chunk(num_rows, max(length_B)), model.config.max_length)
  token_BL = np.zeros((num_rows, -(-max(length_B) // chunk) * chunk), np.int32)
  for row, ids in enumerate(inputs):
    token_BL[row, : len(ids)] = ids
  need = max(len(i) - 1 + n for i, n in zip(inputs, limits, strict=False))
  slots = min(-(-need // SLOTS) * SLOTS, model.config.max_length)
  rows, cache = _start(model, slots, length_B, jax.random.key(seed))
  if embedding_BLD is not None:
    more = (num_rows, token_BL.shape[1]) - np.array(embedding_BLD.shape[:2])
    embedding_BLD = jnp.pad(embedding_BLD, (*((0, n) for n in more), (0, 0)))
  for start in range(0, token_BL.shape[1], chunk):
    part = slice(start, start + chunk)
    x_BLD = None if embedding_BLD is None else embedding_BLD[:, part]
    new = token_BL[:, part], x_BLD
    rows, cache = _read(model, sampling, weights, cache, rows, new, start)
  for _ in range(max(limits) - 1):
    # The next step is dispatched before the caller waits for these tokens.
    token_B = rows.token_B
    rows, cache = _write(model, sampling, weights, cache, rows)
    yield token_B
  yield rows.token_B


def _chunk(num_rows: int, longest: int) -> int:
  """Tokens that are read at a time of prompts up to some length.

  Example: of one prompt of 128 tokens 64, of 500 tokens 256; of 8 prompts of
  500 tokens 128, of 16 or more 64.
  """
  if longest <= 2 * CHUNK:
    return CHUNK
  return CHUNK * min(max(ENOUGH_TOKENS // (num_rows * CHUNK), 1), WIDEST)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(
  model: Model, slots: int, length_B: jax.Array, key: jax.Array
) -> tuple[_Rows, caches.KVCache]:
  """Rows and an empty cache for inputs of these lengths, none of them read."""
  num_rows = length_B.shape[0]
  draw = functools.partial(jax.random.fold_in, key)
  rows = _Rows(
    token_B=jnp.zeros_like(length_B),
    position_B=length_B,
    valid_B=length_B > 0,
    key_B=jax.vmap(draw)(jnp.arange(num_rows)),
  )
  return _laid(model, rows, caches.empty(model.config, num_rows, slots))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _read(
  model: Model,
  sampling: Sampling,
  weights: Weights,
  cache: caches.KVCache,
  rows: _Rows,
  new: tuple[jax.Array, jax.Array | None],
  start: jax.Array,
) -> tuple[_Rows, caches.KVCache]:
  """Reads a chunk of all inputs, whose first token is at position `start`.

  For rows whose input ends in this chunk the first new token is chosen. `new`
  are the tokens, and their embeddings if those of the model are not read.
  """
  token_BL, x_BLD = new
  position_L = start + jnp.arange(token_BL.shape[1])
  position_BL = jnp.broadcast_to(position_L, token_BL.shape)
  valid_BL = position_BL < rows.position_B[:, None]
  decoder = model.bind(weights)
  x_BLD, cache = decoder.advance(
    token_BL, position_BL, valid_BL, cache, rows.position_B, x_BLD
  )
  last_B = rows.position_B - 1 - start
  # For inputs that end in another chunk the clipped column is not used.
  column_B11 = jnp.clip(last_B, 0, token_BL.shape[1] - 1)[:, None, None]
  x_B1D = jnp.take_along_axis(x_BLD, column_B11, axis=1)
  logits_BV = decoder.logits(x_B1D)[:, 0]
  here_B = (last_B >= 0) & (last_B < token_BL.shape[1])
  chosen_B = _choose(sampling, logits_BV, rows)
  token_B = jnp.where(here_B, chosen_B, rows.token_B)
  return _laid(model, dataclasses.replace(rows, token_B=token_B), cache)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _write(
  model: Model,
  sampling: Sampling,
  weights: Weights,
  cache: caches.KVCache,
  rows: _Rows,
) -> tuple[_Rows, caches.KVCache]:
  """Reads the newest token of each row and chooses the next one."""
  logits_BLV, cache = model.bind(weights).step(
    rows.token_B[:, None],
    rows.position_B[:, None],
    rows.valid_B[:, None],
    cache,
  )
  rows = dataclasses.replace(rows, position_B=rows.position_B + 1)
  token_B = _choose(sampling, logits_BLV[:, 0], rows)
  return _laid(model, dataclasses.replace(rows, token_B=token_B), cache)


def _choose(sampling: Sampling, logits_BV: jax.Array, rows: _Rows) -> jax.Array:
  """The next token_B; each is drawn with a key of its row and position."""
  key_B = jax.vmap(jax.random.fold_in)(rows.key_B, rows.position_B)
  return sampling.choose(logits_BV, key_B)


def _laid(
  model: Model, rows: _Rows, cache: caches.KVCache
) -> tuple[_Rows, caches.KVCache]:
  """Rows and cache, split over the mesh by rows."""
  by_row = lambda x: rules.constrain(x, ('batch',), model.mesh)
  by_layer = lambda x: rules.constrain(x, ('layers', 'batch'), model.mesh)
  return jax.tree.map(by_row, rows), jax.tree.map(by_layer, cache)
