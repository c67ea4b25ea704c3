"""Low rank plus sparse: W = U V + S, of MC-SMoE and LoSparse."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from moejax.compress import alignment
from moejax.core import errors


@dataclasses.dataclass(frozen=True)
class LowRankSparse:
  """A matrix as U V + S (MC-SMoE, arXiv 2310.01334, section 3.2).

  Attributes:
    u_IR: R is the rank.
    v_RO: the singular values are shared: U has their roots, and V too.
    s_IO: the rest, dense at first; training with a shrinking share of its rows
      or columns makes it sparse, see `sparsity`.
  """

  u_IR: np.ndarray
  v_RO: np.ndarray
  s_IO: np.ndarray

  def matrix(self) -> np.ndarray:
    """w_IO, the sum."""
    return self.u_IR @ self.v_RO + self.s_IO


def decomposed(w_IO: np.ndarray, rank: int) -> LowRankSparse:
  """A matrix as its best approximation of a rank, and the rest.

  Args:
    w_IO: the matrix.
    rank: R of the truncated singular value decomposition.

  Returns:
    float64 arrays whose sum is w_IO up to rounding.

  Raises:
    InputError: a rank that the matrix does not have.
  """
  if not 1 <= rank <= min(w_IO.shape):
    raise errors.InputError(
      f'rank={rank} of a {w_IO.shape[0]} x {w_IO.shape[1]} matrix: set 1 to '
      f'{min(w_IO.shape)}'
    )
  w_IO = np.asarray(w_IO, np.float64)
  u, sigma, v = np.linalg.svd(w_IO, full_matrices=False)
  root_R = np.sqrt(sigma[:rank])
  u_IR, v_RO = u[:, :rank] * root_R, root_R[:, None] * v[:rank]
  return LowRankSparse(u_IR, v_RO, w_IO - u_IR @ v_RO)


def approximated(
  experts: Mapping[str, np.ndarray], share: float, rest: float = 0.0
) -> dict[str, np.ndarray]:
  """Experts whose matrices are U V, plus the largest columns of the rest.

  It is W = U V + S at the end of MC-SMoE's schedule, without its training: the
  columns of S that stay are those of the largest L2 norm, since the sensitivity
  |s dL/ds| is that of a training step (`sparsity`). Gate and up of gated
  experts are two matrices. Biases are as they were.

  The result is the sum, as dense as W: it shows what the factors are worth. The
  factors themselves have a share of `share` + `rest` of the numbers.

  Args:
    experts: arrays by name, the experts in front; axes are read from the names.
    share: of the numbers of a matrix that its factors have, see
      `rank_of_share`.
    rest: share of the columns of S that stays.
  """
  return {
    name: _approximated(name, array, share, rest)
    for name, array in experts.items()
  }


def _approximated(
  name: str, array: np.ndarray, share: float, rest: float
) -> np.ndarray:
  axes = alignment.axes_of(name)
  ends = [axis for axis, letter in enumerate(axes) if letter.isalpha()][1:]
  if len(ends) != 2:
    return array
  w_XIO = np.moveaxis(array, ends, (-2, -1))
  height, width = w_XIO.shape[-2:]
  rank = min(rank_of_share(share, height, width), height, width)
  num_columns = math.ceil(rest * width - 1e-9)
  new = np.empty_like(w_XIO)
  for place in np.ndindex(w_XIO.shape[:-2]):
    parts = decomposed(w_XIO[place], rank)
    norm_O = np.linalg.norm(parts.s_IO, axis=0)
    kept_O = np.zeros(width, bool)
    kept_O[np.argsort(-norm_O, kind='stable')[:num_columns]] = True
    s_IO = np.where(kept_O, parts.s_IO, 0)
    new[place] = dataclasses.replace(parts, s_IO=s_IO).matrix()
  return np.moveaxis(new, (-2, -1), ends)


def rank_of_share(share: float, height: int, width: int) -> int:
  """The rank at which U and V have a share of a matrix's numbers, rounded up.

  ceil(share H W / (H + W)), as in the code of MC-SMoE.
  """
  # A product such as 0.1 * 30 is a little above 3, and is no fourth rank.
  return math.ceil(share * height * width / (height + width) - 1e-9)


def stable_rank(w_IO: np.ndarray) -> float:
  """The stable rank, sum sigma^2 / max sigma^2; 0 for a matrix of zeros.

  It is 1 to the rank. MC-SMoE (arXiv 2310.01334, section 3.2) finds it lower
  after merging, which is why merged experts compress better.
  """
  sigma = np.linalg.svd(np.asarray(w_IO, np.float64), compute_uv=False)
  return float((sigma**2).sum() / sigma[0] ** 2) if sigma[0] else 0.0
