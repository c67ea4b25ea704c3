"""The experts of each token as sets, a layer at a time.

A set is W = ceil(E / 64) words of 64 bits, so that the intersections of
millions of sets are a few passes over memory.

Example, E=4:  experts [2, 0, -1]  ->  bits 0b0101, size 2
"""

import dataclasses

import numpy as np

from moejax.analysis.trace import NOWHERE, Trace

WORD = 64


def of_layer(trace: Trace, n: int) -> np.ndarray:
  """expert_KT: the experts of the n-th layer, in memory rank after rank.

  An expert that a token has twice, as a router with several hashes may choose
  it, counts once: `NOWHERE` stands for the repeats.
  """
  # In two steps, which is faster than to copy and to transpose in one.
  expert_TK = np.ascontiguousarray(trace.expert_TNK[:, n])
  expert_KT = expert_TK.T.copy()
  for rank in range(1, len(expert_KT)):
    for earlier in range(rank):
      repeats_T = expert_KT[rank] == expert_KT[earlier]
      if repeats_T.any():
        expert_KT[rank, repeats_T] = NOWHERE
  return expert_KT


def bits(expert_KT: np.ndarray, num_experts: int) -> np.ndarray:
  """set_WT: the set of each token as bits, uint64."""
  num_words = max(1, -(-num_experts // WORD))
  # The last row, that of NOWHERE = -1, is the empty set.
  table_WE = np.zeros((num_words, num_experts + 1), np.uint64)
  expert_E = np.arange(num_experts)
  shift_E = (expert_E % WORD).astype(np.uint64)
  table_WE[expert_E // WORD, expert_E] = np.uint64(1) << shift_E
  set_WT = np.zeros((num_words, expert_KT.shape[1]), np.uint64)
  for expert_T in expert_KT:
    for word, table_E in enumerate(table_WE):
      set_WT[word] |= table_E.take(expert_T, mode='wrap')
  return set_WT


def size(set_WT: np.ndarray) -> np.ndarray:
  """Number of experts in each set, int64 [T]."""
  return np.bitwise_count(set_WT).sum(axis=0, dtype=np.int64)


def overlap(
  a_WT: np.ndarray, b_WT: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """|A and B| over the size of the larger set, by token.

  With k experts in both it is |A and B| / k. Where the sizes differ, the larger
  one keeps a set of all experts from agreeing with every other.

  Returns:
    share_T, and keep_T: False where both sets are empty, which have no overlap.
  """
  larger_T = np.maximum(size(a_WT), size(b_WT))
  keep_T = larger_T > 0
  return size(a_WT & b_WT) / np.maximum(larger_T, 1), keep_T


def counts(
  expert_KT: np.ndarray,
  num_experts: int,
  group_T: np.ndarray | None = None,
  groups: int = 1,
) -> np.ndarray:
  """count_GE: the tokens that chose each expert, by group of the token.

  Args:
    expert_KT: from `of_layer`.
    num_experts: E.
    group_T: group of each token, from 0; None puts all in group 0.
    groups: number of groups, G.
  """
  width = num_experts + 1  # the first column is that of NOWHERE
  total = np.zeros(groups * width, np.int64)
  start_T = 1 if group_T is None else group_T.astype(np.int64) * width + 1
  for expert_T in expert_KT:
    total += np.bincount(start_T + expert_T, minlength=len(total))
  return total.reshape(groups, width)[:, 1:]


@dataclasses.dataclass(frozen=True)
class Types:
  """The token types of a text, S of them, by their ids in the vocabulary.

  Attributes:
    id_S: the ids, rising.
    type_T: number of each token's type, from 0; -1 if it is too rare.
  """

  id_S: np.ndarray
  type_T: np.ndarray

  @classmethod
  def of(cls, token_T: np.ndarray, at_least: int = 1) -> 'Types':
    """The types with a number of occurrences in a text.

    Tables of all types would be large: most of a vocabulary is rare.
    """
    ids, place_T, count = np.unique(
      token_T, return_inverse=True, return_counts=True
    )
    frequent = count >= at_least
    number = np.where(frequent, np.cumsum(frequent) - 1, -1)
    return cls(ids[frequent], number[place_T])

  def counts(self, expert_KT: np.ndarray, num_experts: int) -> np.ndarray:
    """count_SE: occurrences of each type that chose each expert."""
    keep_T = self.type_T >= 0
    return counts(
      expert_KT[:, keep_T], num_experts, self.type_T[keep_T], len(self.id_S)
    )

  def occurrences(self, keep_T: np.ndarray) -> np.ndarray:
    """Number of each type's occurrences among some tokens, [S]."""
    type_T = self.type_T[keep_T & (self.type_T >= 0)]
    return np.bincount(type_T, minlength=len(self.id_S))
