"""Sets of experts, and counts by token type, by hand."""

import numpy as np

from moejax.analysis import expert_sets


def test_sets_of_two_words():
  # Token 0 has the experts 1 and 64, token 1 has 64 alone.
  set_WT = expert_sets.bits(np.array([[1, 64], [64, -1]], np.int16), 65)
  np.testing.assert_array_equal(set_WT, [[0b10, 0], [1, 1]])
  np.testing.assert_array_equal(expert_sets.size(set_WT), [2, 1])
  share_T, keep_T = expert_sets.overlap(set_WT, set_WT[:, ::-1])
  np.testing.assert_array_equal(share_T, [1 / 2, 1 / 2])
  assert keep_T.all()


def test_types_that_are_frequent_enough():
  types = expert_sets.Types.of(np.array([5, 9, 5, 7, 9, 9]), at_least=2)
  np.testing.assert_array_equal(types.id_S, [5, 9])
  np.testing.assert_array_equal(types.type_T, [0, 1, 0, -1, 1, 1])
  first_1T = np.array([[2, 0, 2, 1, -1, 0]], np.int16)
  counts = types.counts(first_1T, 3)
  np.testing.assert_array_equal(counts, [[0, 0, 2], [2, 0, 0]])
  routed_T = first_1T[0] >= 0
  np.testing.assert_array_equal(types.occurrences(routed_T), [2, 2])
