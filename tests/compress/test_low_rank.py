"""Low rank plus the rest: by hand, and against the definition."""

import numpy as np
import pytest
from helpers import experts

from moejax.compress import low_rank
from moejax.compress.low_rank import decomposed, rank_of_share, stable_rank
from moejax.core import errors

W_IO = np.random.default_rng(0).normal(size=(6, 4))


def test_a_matrix_by_hand():
  """Singular values 3 and 1: the first is shared by U and V."""
  w_IO = np.array([[0.0, 3, 0], [1, 0, 0]])
  pieces = decomposed(w_IO, 1)
  np.testing.assert_allclose(np.abs(pieces.u_IR), [[np.sqrt(3)], [0]])
  np.testing.assert_allclose(np.abs(pieces.v_RO), [[0, np.sqrt(3), 0]])
  np.testing.assert_allclose(pieces.s_IO, [[0, 0, 0], [1, 0, 0]], atol=1e-15)
  assert stable_rank(w_IO) == pytest.approx(10 / 9)


@pytest.mark.parametrize('rank', [1, 2, 3, 4])
def test_the_pieces_sum_to_the_matrix(rank):
  pieces = decomposed(W_IO, rank)
  assert pieces.u_IR.shape == (6, rank)
  assert pieces.v_RO.shape == (rank, 4)
  np.testing.assert_allclose(pieces.matrix(), W_IO, rtol=1e-13)
  # What is left has the other singular values (Eckart and Young).
  sigma = np.linalg.svd(W_IO, compute_uv=False)
  np.testing.assert_allclose(
    np.linalg.norm(pieces.s_IO), np.linalg.norm(sigma[rank:]), atol=1e-12
  )


@pytest.mark.parametrize('rank', [0, 5, -1])
def test_a_rank_that_the_matrix_does_not_have_is_one_line(rank):
  with pytest.raises(errors.InputError, match=f'rank={rank} of a 6 x 4 matrix'):
    decomposed(W_IO, rank)


@pytest.mark.parametrize(
  ('share', 'height', 'width', 'rank'),
  [
    (0.15, 16, 32, 2),  # 0.15 * 512 / 48 = 1.6, the example of the code
    (0.25, 768, 3072, 154),  # 153.6
    (0.1, 60, 60, 3),  # 3 exactly, though 0.1 is a little more than a tenth
    (1.0, 4, 4, 2),
  ],
)
def test_the_rank_of_a_share_of_the_numbers(share, height, width, rank):
  assert rank_of_share(share, height, width) == rank


def test_stable_rank_lies_between_1_and_the_rank():
  assert stable_rank(np.outer([1, 2], [3, 4, 5])) == pytest.approx(1)
  assert stable_rank(7 * np.eye(5)) == pytest.approx(5)
  assert stable_rank(np.zeros((3, 2))) == 0
  assert 1 < stable_rank(W_IO) < 4


@pytest.mark.parametrize('kind', ['swiglu', 'two_matrix'])
def test_experts_of_low_rank_are_the_nearest_of_their_rank(kind):
  weights = {
    name: array
    for name, array in experts.random(kind).items()
    if name.startswith(('w_in', 'w_out'))
  }
  # 6 x 3 or 3 x 6: a share of 1/2 is ceil(9 / 9) = 1 rank.
  new = low_rank.approximated(weights, 0.5)
  for name, array in weights.items():
    assert new[name].dtype == array.dtype
    pairs = [(array, new[name])]
    if name == 'w_in_ED2F':
      pairs = [(array[:, :, half], new[name][:, :, half]) for half in (0, 1)]
    for old, found in pairs:
      for w_IO, found_IO in zip(old, found, strict=True):
        u, sigma, v = np.linalg.svd(w_IO)
        np.testing.assert_allclose(
          found_IO, sigma[0] * np.outer(u[:, 0], v[0]), atol=1e-6
        )


def test_the_rest_gives_its_largest_columns_back():
  w_EFD = np.random.default_rng(0).normal(size=(2, 6, 3))
  bias_ED = np.ones((2, 3))
  weights = {'w_out_EFD': w_EFD, 'b_out_ED': bias_ED}
  plain = low_rank.approximated(weights, 0.5)
  new = low_rank.approximated(weights, 0.5, rest=1 / 3)
  assert new['b_out_ED'] is bias_ED
  for w, old, found in zip(
    w_EFD, plain['w_out_EFD'], new['w_out_EFD'], strict=True
  ):
    largest = np.argmax(np.linalg.norm(w - old, axis=0))
    others = np.arange(3) != largest
    np.testing.assert_allclose(found[:, largest], w[:, largest])
    np.testing.assert_array_equal(found[:, others], old[:, others])
  whole = low_rank.approximated(weights, 0.5, rest=1.0)
  np.testing.assert_allclose(whole['w_out_EFD'], w_EFD)
