"""Dropless SwiGLU experts by grouped matmul kernels, gradient included.

  experts = PallasFusedSwiglu(kernel)
  out_TD, _ = experts(x_TD, routing, grouping, (w_gate, w_up, w_down))

computes the same as `staged.StagedCompute` with the same kernel. It is for
accelerators, where the elementwise work between the matmuls is limited by
memory. It differs from JAX's own gradient of the stages:

  - The gradient to an assignment's weight neither recomputes nor reads an
    expert's output: with the hidden activations a of its row and
    g = dout W_down^T, it is <dout, a W_down> = <g, a> (see `cpu_fused_swiglu`).
  - Rows of no expert are never set to zero; they hold arbitrary values. Each
    row is computed by itself, the kernels leave these rows out of the sums of
    the weights' gradients, and nothing reads them at the end.
  - Gate and up are two products. The gradient of one product for both would be
    concatenated from two halves, which costs one more write and read.
  - Nothing is written to memory between a product and its elementwise work, and
    the gradients that reach a row through gate and through up are one sum
    (`pallas_swiglu_products`).
  - The kernels that compute the gradients of the weights can add them to those
    of other calls, which computed other tokens. Each call passes the weights to
    the next call as its `grad_accumulator`; in the backward pass, the sum of
    the later calls' gradients arrives as the accumulator's gradient.

Example, 3 tokens with K = 2 and the third not routed: of 6 rows the experts own
the first 4. Rows 4 and 5 are copies of token 0 in x_RD, and arbitrary, NaN
included, in all later arrays.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe import contract
from moejax.moe.compute import (
  base,
  pallas_grouped_matmul,
  pallas_swiglu_products,
  permute,
)
from moejax.moe.experts.base import split_gate_up


@dataclasses.dataclass(frozen=True)
class PallasFusedSwiglu:
  """Routed SwiGLU experts over local tokens; see the module's docstring.

  Attributes:
    kernel: the grouped matmul; its `weights` reads no row behind the last
      group.
    keep: whether the forward pass keeps gate and up for the backward pass. If
      not, the backward pass recomputes them; only the tokens are kept then, and
      a `jax.checkpoint` around it has nothing more to recompute.
  """

  kernel: pallas_grouped_matmul.Megablox = pallas_grouped_matmul.Megablox()
  keep: bool = True

  @property
  def row_multiple(self) -> int:
    return self.kernel.row_multiple

  def __call__(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    grouping: permute.Grouping,
    w: pallas_swiglu_products.Weights,
    grad_accumulator: pallas_swiglu_products.Weights | None = None,
  ) -> tuple[jax.Array, pallas_swiglu_products.Weights | None]:
    """out_TD in the type of `x_TD`, and the gradient accumulator.

    Gradients go to `x_TD`, to the routing's weights, and to `w` or the
    accumulator.

    Args:
      x_TD: token vectors.
      routing: the list of assignments.
      grouping: `permute.group` of the routing.
      w: w_gate_EDF, w_up_EDF, w_down_EFD.
      grad_accumulator: the same three arrays, to receive the gradient in place
        of `w`; None: the gradient goes to `w`.
    """
    arguments = (
      x_TD,
      routing.weight_A,
      w,
      grad_accumulator,
      (routing.token_A, grouping),
    )
    leaves, structure = jax.tree.flatten(arguments)
    arguments = jax.tree.unflatten(structure, varying.together(*leaves))
    return _experts(self, routing.per_token, *arguments)


@dataclasses.dataclass(frozen=True)
class PallasFusedCompute:
  """`PallasFusedSwiglu` as a Compute, with dropless rows."""

  kernels: PallasFusedSwiglu = PallasFusedSwiglu()

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    grad_accumulator: Any = None,
  ) -> base.ExpertOutput:
    grouping = base.group(routing, num_experts, self.kernels.row_multiple)
    w = self.grad_accumulator(self.prepare(weights))
    out_TD, grad_accumulator = self.kernels(
      x_TD, routing, grouping, w, grad_accumulator
    )
    return base.ExpertOutput(
      out_TD,
      routing.expert_A < num_experts,
      grad_accumulator=grad_accumulator,
    )

  @property
  def rounds_weights(self) -> bool:
    return False

  @property
  def most_picked(self) -> int:
    return 0

  @property
  def equal_stages(self) -> None:
    return None

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """w_in_ED2F as two matrices of their own, w_gate_EDF and w_up_EDF."""
    return split_gate_up(weights)

  def grad_accumulator(
    self, weights: dict[str, jax.Array]
  ) -> pallas_swiglu_products.Weights:
    return weights['w_gate_EDF'], weights['w_up_EDF'], weights['w_out_EFD']


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _experts(experts, per_token, x_TD, weight_A, w, grad_accumulator, places):
  return _forward(
    experts, per_token, x_TD, weight_A, w, grad_accumulator, places
  )[0]


def _forward(experts, per_token, x_TD, weight_A, w, grad_accumulator, places):
  token_A, grouping = places
  x_RD = _rows(x_TD, token_A, grouping, per_token)
  a_RF, *z = pallas_swiglu_products.forward(
    experts.kernel, x_RD, w, grouping.size_E, experts.keep
  )
  y_RD = experts.kernel.rows(a_RF, w[2], grouping.size_E, transpose=False)
  out_TD = permute.combine(
    y_RD, weight_A, token_A, grouping, x_TD.shape[0], per_token
  )
  kept = (x_RD, *z) if experts.keep else (x_TD,)
  return (out_TD, grad_accumulator), (kept, weight_A, w, places)


def _backward(experts, per_token, kept, cotangents):
  dout_TD, daccumulator = cotangents
  (x, *z), weight_A, w, (token_A, grouping) = kept
  kernel, size_E = experts.kernel, grouping.size_E
  x_RD = x if z else _rows(x, token_A, grouping, per_token)
  weight_R1 = _or_zero(weight_A, grouping.assignment_R)[:, None]
  dout_RD = _rows(dout_TD, token_A, grouping, per_token)
  a_RF, *dz, dweight_RP = pallas_swiglu_products.backward(
    kernel, (x_RD, *z), dout_RD, weight_R1, w, size_E
  )
  dweight_R = jnp.sum(dweight_RP, axis=1)
  dx_RD = pallas_swiglu_products.rows(kernel, dz, w, size_E)
  dx_TD = permute.combine(
    dx_RD,
    jnp.ones_like(weight_A),
    token_A,
    grouping,
    dout_TD.shape[0],
    per_token,
  )
  products = ((x_RD, dz[0]), (x_RD, dz[1]), (a_RF, dout_RD))
  dw = tuple(
    kernel.weights(*product, size_E, one.dtype, onto)
    for product, one, onto in zip(
      products, w, daccumulator or (None,) * 3, strict=True
    )
  )
  dweight_A = _or_zero(dweight_R, grouping.row_A).astype(weight_A.dtype)
  return dx_TD, dweight_A, *((None, dw) if daccumulator else (dw, None)), None


_experts.defvjp(_forward, _backward)


def _rows(x_TD, token_A, grouping, per_token):
  """Token vectors by row; token 0 for rows without an assignment."""
  A = token_A.shape[0]
  assignment_R = jnp.where(grouping.assignment_R < A, grouping.assignment_R, 0)
  # In a K-outermost list, assignment a is of token a % T.
  token_R = (
    token_A[assignment_R]
    if per_token is None
    else (assignment_R % x_TD.shape[0])
  )
  return x_TD.at[token_R].get(mode='promise_in_bounds')


def _or_zero(x_N, index):
  return x_N.at[index].get(mode='fill', fill_value=0)
