"""Hash layers: experts that depend on the token's id alone."""

import dataclasses
import functools
import heapq
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, hashing


def ids(inputs: contract.RouterInput) -> jax.Array:
  """The tokens' vocabulary ids."""
  if inputs.token_T is None:
    raise ValueError('a hash router needs token_T, which is None')
  return inputs.token_T


def even(
  inputs: contract.RouterInput, expert_TK: jax.Array
) -> contract.Routing:
  """A routing to these experts with weight 1 / K each, without gradient.

  The probabilities are 1 / K for the chosen and 0 for the others.
  """
  k, num_experts = expert_TK.shape[1], inputs.logits_TE.shape[1]
  expert_TK, is_used_TK = replay.choice(inputs.replayed, expert_TK)
  hit_TKE = expert_TK[..., None] == jnp.arange(num_experts)
  if is_used_TK is not None:
    hit_TKE &= is_used_TK[..., None]
  prob_TE = jnp.sum(hit_TKE, axis=1, dtype=jnp.float32) / k
  weight_TK = jnp.full(expert_TK.shape, 1 / k, jnp.float32)
  return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)


@dataclasses.dataclass(frozen=True)
class Hash(fixed_k.FixedK):
  """Random hash: k experts that depend on the token's id alone.

  Hash Layers (arXiv 2106.04426): a fixed map from vocabulary to experts, no
  router weights, no balance loss, gate 1. Each id's expert is drawn uniformly;
  so frequent ids make loads uneven, which `balanced_hash` mends.

  With k > 1, our generalisation, the experts of an id differ and each has
  weight 1 / k. The scorer's logits have no effect.

  Attributes:
    seed: another seed gives another map.
    by_layer: whether each layer has its own map; else two ids that share an
      expert share one in all layers.
  """

  is_learned: ClassVar[bool] = False
  experts_are_alike: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = False
  reads_token_ids: ClassVar[bool] = True
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    "it finds experts by a hash of the token's id and their number, so there "
    'is no score by which another expert would follow'
  )

  k: int = fields.number(1, at_least=1)
  seed: int = fields.number(0, at_least=0)
  by_layer: bool = True

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    layer = inputs.layer if self.by_layer else 0
    num_experts = inputs.logits_TE.shape[1]
    return even(
      inputs,
      hashing.distinct(num_experts, self.k, self.seed, layer, ids(inputs)),
    )


@dataclasses.dataclass(frozen=True)
class BalancedHash(fixed_k.FixedK):
  """Balanced hash: ids by descending frequency to the least loaded experts.

  Hash Layers (arXiv 2106.04426): the ids, from the most to the least frequent,
  take the expert whose ids so far have the smallest total frequency; among
  equals the first. With k > 1, our generalisation, an id takes the k least
  loaded experts, in the order of their load, and each gets 1 / k of the id's
  frequency. The map is the same in all layers.

  Example, E=2, k=1, counts 6, 3, 2, 2:
    id      0  1  2  3
    expert  0  1  1  1    loads 6 and 7

  The paper counts ids in its training data. Without a file of counts, id i is
  assumed to have frequency 1 / (i + 1), Zipf's law. This is about right for a
  vocabulary that is sorted by frequency, as those of SentencePiece's unigram
  and BPE models are, and far off for any other.

  Attributes:
    vocab_size: number of ids; a larger id is taken modulo `vocab_size`.
    counts: path of a text file with the count of id 0, 1, ... one a line; ''
      for Zipf's law.
  """

  is_learned: ClassVar[bool] = False
  experts_are_alike: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = False
  reads_token_ids: ClassVar[bool] = True
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    "it finds experts in a table by the token's id, made for all experts, so "
    'there is no score by which another expert would follow'
  )

  k: int = fields.number(1, at_least=1)
  vocab_size: int = fields.number(32768, at_least=1)
  counts: str = ''

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    _table(self, num_experts)

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    table_VK = jnp.asarray(_table(self, inputs.logits_TE.shape[1]))
    return even(inputs, table_VK[ids(inputs) % self.vocab_size])


def balanced_table(count_V: np.ndarray, num_experts: int, k: int) -> np.ndarray:
  """The experts of each id, int32 [V, k]; see BalancedHash."""
  table_VK = np.zeros((len(count_V), k), np.int32)
  loads = [(0.0, expert) for expert in range(num_experts)]
  for token in np.argsort(-count_V, kind='stable'):
    chosen = [heapq.heappop(loads) for _ in range(k)]
    table_VK[token] = [expert for _, expert in chosen]
    for load, expert in chosen:
      heapq.heappush(loads, (load + float(count_V[token]) / k, expert))
  return table_VK


def read_counts(path: str, vocab_size: int) -> np.ndarray:
  """float64 [V] from a text file with one count a line.

  Raises:
    InputError: no such file, a line that is no count, or not V lines.
  """
  file = epath.Path(path)
  if not file.exists():
    raise errors.InputError(f'router.counts={path}: there is no such file')
  lines = file.read_text().split()
  if len(lines) != vocab_size:
    raise errors.InputError(
      f'router.counts={path} has {len(lines)} counts, but '
      f'router.vocab_size={vocab_size}'
    )
  for i, line in enumerate(lines):
    if not line.isdecimal():
      raise errors.InputError(
        f'router.counts={path}, count of id {i}: {line!r} is no whole number'
      )
  return np.array([int(line) for line in lines], np.float64)


@functools.lru_cache(maxsize=8)
def _table(router: BalancedHash, num_experts: int) -> np.ndarray:
  if router.counts:
    count_V = read_counts(router.counts, router.vocab_size)
  else:
    count_V = 1 / np.arange(1, router.vocab_size + 1)
  table_VK = balanced_table(count_V, num_experts, router.k)
  table_VK.setflags(write=False)
  return table_VK
