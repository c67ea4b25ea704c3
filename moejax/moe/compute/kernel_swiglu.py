"""Dropless SwiGLU experts by grouped matmul kernels, gradient included.

  experts = KernelSwiglu(kernel)
  out_TD, _ = experts(x_TD, routing, grouping, (w_gate, w_up, w_down))

is what `compute.Stages` gives with the same kernel, for accelerators, where
what lies between the matmuls is limited by memory. Against JAX's own gradient
of the stages:

  - no output of an expert is computed again, nor read, for the gradient to an
    assignment's weight: with a the hidden activations of its row and g = dout
    W_down^T, it is <dout, a W_down> = <g, a> (see `fused_swiglu`)
  - rows that no expert owns are never set to zero. They hold what was there:
    every row by itself goes through all of it, the kernels leave them out of
    the sums of the weights' gradients, and nobody reads them at the end
  - gate and up are two products: of one, the gradient would have to be put
    together from two halves, which is written and read once more
  - nothing is written between a product and what comes of it, and the gradients
    that reach a row by gate and by up are one sum (`swiglu_kernels`)
  - gradients of the weights can be added up over calls for other tokens, in the
    kernels that make them: each call hands the weights on to the next as its
    `chain`, and so the sum of the later ones' gradients comes to it

Example, 3 tokens with K = 2 and the third not routed: of 6 rows the experts own
the first 4. Rows 4 and 5 are copies of token 0 in x_RD, and anything (NaN too)
in all later arrays.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe import contract
from moejax.moe.compute import grouped_matmul_kernels, permute, swiglu_kernels


@dataclasses.dataclass(frozen=True)
class KernelSwiglu:
  """Routed SwiGLU experts over local tokens; see the module's docstring.

  Attributes:
    kernel: whose `weights` reads no row behind the last group.
    keep: whether the forward pass keeps what the backward pass needs of gate
      and up. If not, it computes them again; then nothing but the tokens is
      kept, and `jax.checkpoint` around it finds nothing to do again.
  """

  kernel: grouped_matmul_kernels.Megablox = grouped_matmul_kernels.Megablox()
  keep: bool = True

  @property
  def row_multiple(self) -> int:
    return self.kernel.row_multiple

  def __call__(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    grouping: permute.Grouping,
    w: swiglu_kernels.Weights,
    chain: swiglu_kernels.Weights | None = None,
  ) -> tuple[jax.Array, swiglu_kernels.Weights | None]:
    """out_TD in the type of `x_TD`, and the chain.

    There are gradients to all but the grouping.

    Args:
      x_TD: token vectors.
      routing: the list of assignments.
      grouping: from `permute.group` of it.
      w: w_gate_EDF, w_up_EDF, w_down_EFD.
      chain: the same again, if they are to have the gradient in place of `w`.
    """
    given = (
      x_TD,
      routing.weight_A,
      w,
      chain,
      (routing.token_A, grouping),
    )
    leaves, structure = jax.tree.flatten(given)
    given = jax.tree.unflatten(structure, varying.together(*leaves))
    return _experts(self, routing.per_token, *given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _experts(experts, per_token, x_TD, weight_A, w, chain, places):
  return _forward(experts, per_token, x_TD, weight_A, w, chain, places)[0]


def _forward(experts, per_token, x_TD, weight_A, w, chain, places):
  token_A, grouping = places
  x_RD = _rows(x_TD, token_A, grouping, per_token)
  a_RF, *z = swiglu_kernels.forward(
    experts.kernel, x_RD, w, grouping.size_E, experts.keep
  )
  y_RD = experts.kernel.rows(a_RF, w[2], grouping.size_E, transpose=False)
  out_TD = permute.combine(
    y_RD, weight_A, token_A, grouping, x_TD.shape[0], per_token
  )
  kept = (x_RD, *z) if experts.keep else (x_TD,)
  return (out_TD, chain), (kept, weight_A, w, places)


def _backward(experts, per_token, kept, cotangents):
  dout_TD, dchain = cotangents
  (x, *z), weight_A, w, (token_A, grouping) = kept
  kernel, size_E = experts.kernel, grouping.size_E
  x_RD = x if z else _rows(x, token_A, grouping, per_token)
  weight_R1 = _or_zero(weight_A, grouping.assignment_R)[:, None]
  dout_RD = _rows(dout_TD, token_A, grouping, per_token)
  a_RF, *dz, dweight_RP = swiglu_kernels.backward(
    kernel, (x_RD, *z), dout_RD, weight_R1, w, size_E
  )
  dweight_R = jnp.sum(dweight_RP, axis=1)
  dx_RD = swiglu_kernels.rows(kernel, dz, w, size_E)
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
      products, w, dchain or (None,) * 3, strict=True
    )
  )
  dweight_A = _or_zero(dweight_R, grouping.row_A).astype(weight_A.dtype)
  return dx_TD, dweight_A, *((None, dw) if dchain else (dw, None)), None


_experts.defvjp(_forward, _backward)


def _rows(x_TD, token_A, grouping, per_token):
  """Token vectors by row; token 0 for rows without an assignment."""
  A = token_A.shape[0]
  assignment_R = jnp.where(grouping.assignment_R < A, grouping.assignment_R, 0)
  # In a list that is K-outermost, assignment a is of token a % T.
  token_R = (
    token_A[assignment_R]
    if per_token is None
    else (assignment_R % x_TD.shape[0])
  )
  return x_TD.at[token_R].get(mode='promise_in_bounds')


def _or_zero(x_N, index):
  return x_N.at[index].get(mode='fill', fill_value=0)
