"""Matrices of experts as W = U V + S, of MC-SMoE and LoSparse.

U and V are of a low rank R, and S is the matrix under its usual name: the
weights of experts, and beside them two for each of their matrices.

  S            U            V
  w_in_ED2F    u_in_ED2R    v_in_E2RF      gate and up are two matrices
  w_out_EFD    u_out_EFR    v_out_ERD

All three are trained (MC-SMoE, arXiv 2310.01334, section 3.2; LoSparse, arXiv
2306.11222). `train.sparsity` makes S sparse. The sum is formed before experts
are computed, so this form takes fewer numbers once S is sparse, and not less
time.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import errors

MATRIX = 'w_'


def init(
  key: jax.Array, experts: Mapping[str, nnx.Param], rank: int, std: float
) -> dict[str, nnx.Param]:
  """U and V of the matrices of experts, float32; V is zero, so that W = S.

  Args:
    key: random key of U.
    experts: the weights of the experts by name, without layers in front.
    rank: R; 0: none.
    std: standard deviation of U.

  Raises:
    InputError: a rank above that of a matrix.
  """
  made: dict[str, nnx.Param] = {}
  for i, name in enumerate(sorted(filter(_is_matrix, experts)) if rank else ()):
    shape = experts[name].shape
    size, axes = min(shape[1], shape[-1]), experts[name].get_metadata()['axes']
    if rank > size:
      raise errors.InputError(
        f'model.moe.low_rank={rank}, but matrices of experts are {shape[1]} x '
        f'{shape[-1]}: set model.moe.low_rank={size} or less'
      )
    expert, inputs, *halves, outputs = zip(shape, axes, strict=True)
    low = rank, 'unsharded'
    dims_u, dims_v = (
      (expert, inputs, *halves, low),
      (expert, *halves, low, outputs),
    )
    (shape_u, axes_u), (shape_v, axes_v) = (
      tuple(zip(*dims, strict=True)) for dims in (dims_u, dims_v)
    )
    name_u, name_v = names(name)
    drawn = jax.random.normal(jax.random.fold_in(key, i), shape_u)
    made[name_u] = nnx.Param(std * drawn, axes=axes_u, decays=True)
    made[name_v] = nnx.Param(jnp.zeros(shape_v), axes=axes_v, decays=True)
  return made


def names(matrix: str) -> tuple[str, str]:
  """The names of U and V of a matrix.

  Example: 'w_in_ED2F' -> ('u_in_ED2R', 'v_in_E2RF')
  """
  stem, letters = matrix.removeprefix(MATRIX).rsplit('_', 1)
  halves, outputs = letters[2:-1], letters[-1]
  return f'u_{stem}_{letters[:-1]}R', f'v_{stem}_E{halves}R{outputs}'


def summed(
  experts: Mapping[str, Any], factors: Mapping[str, Any]
) -> dict[str, Any]:
  """The weights of experts with W = U V + S for each matrix.

  Args:
    experts: weights by name, S among them; layers may stand in front.
    factors: U and V by name.
  """
  whole = dict(experts)
  for name in filter(_is_matrix, experts):
    u, v = (factors[part] for part in names(name))
    whole[name] = experts[name] + _product(name, u, v)
  return whole


def decomposed(
  experts: Mapping[str, Any], rank: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Whole matrices as the best approximation U V of a rank, and the rest S.

  The singular values are shared: U has their roots, and V too.

  Args:
    experts: weights by name, float32; layers may stand in front.
    rank: R, at most that of the matrices.

  Returns:
    The weights with S for each matrix, and U and V by name.
  """
  rest = dict(experts)
  factors: dict[str, Any] = {}
  for name in filter(_is_matrix, experts):
    w = experts[name]
    halves = len(_halves(name))
    # [..., I, 2, O] -> [..., 2, I, O]
    w = jnp.moveaxis(w, -2, -3) if halves else w
    u, sigma, v = jnp.linalg.svd(w, full_matrices=False)
    root = jnp.sqrt(sigma[..., :rank])
    u, v = (
      u[..., :rank] * root[..., None, :],
      root[..., None] * v[..., :rank, :],
    )
    u = jnp.moveaxis(u, -2, -3) if halves else u
    name_u, name_v = names(name)
    factors |= {name_u: u, name_v: v}
    rest[name] = experts[name] - _product(name, u, v)
  return rest, factors


def _product(name: str, u: jax.Array, v: jax.Array) -> jax.Array:
  h = _halves(name)
  return jnp.einsum(f'...i{h}r,...{h}ro->...i{h}o', u, v)


def _halves(name: str) -> str:
  """The axis between inputs and outputs of a matrix, if it has one."""
  return 'h' * (len(name.rsplit('_', 1)[1]) - 3)


def _is_matrix(name: str) -> bool:
  return name.startswith(MATRIX)
