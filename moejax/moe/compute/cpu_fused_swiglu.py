"""Gather, SwiGLU experts and weighted combine in one loop, for CPU.

  fused = CpuFusedSwiglu()
  grouping = permute.group(expert_A, E, fused.row_multiple)
  out_TD = fused(
    x_TD, weight_A, token_A, grouping, w_gate_up_EDF, w_down_EFD)

computes the same as three steps,

  x_RD = permute.gather(x_TD, token_A, grouping)
  z_RF = multiply(x_RD, w_gate_up_EDF, size_E)     # [D, 2 F]: gate, then up
  y_RD = multiply(silu(gate_RF) * up_RF, w_down_EFD, size_E)
  out_TD = permute.combine(y_RD, weight_A, token_A, grouping, T)

for any list of assignments, with gradients to `x_TD`, `weight_A` and both
weight matrices. A piece of rows passes all three steps while it lies in the
cache. Neither the rows x_RD, nor the outputs y_RD, nor their gradients are
arrays in memory: only the pre-activations z_RF are kept, for the gradient.

The gradient to an assignment's weight needs no expert output either: with the
hidden activations a of its row and g = dout W_down^T, it is
<dout, a W_down> = <g, a>.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import linear, varying
from moejax.moe import contract
from moejax.moe.compute import base, blocks, cpu_few_rows, permute


@dataclasses.dataclass(frozen=True)
class CpuFusedSwiglu:
  """Routed SwiGLU experts over local tokens; see the module's docstring.

  Attributes:
    cut: how groups of rows are cut into pieces.
  """

  cut: blocks.Blocks = blocks.Blocks()

  @property
  def row_multiple(self) -> int:
    return self.cut.block

  def __call__(
    self,
    x_TD: jax.Array,
    weight_A: jax.Array,
    token_A: jax.Array,
    grouping: permute.Grouping,
    w_gate_up_EDF: jax.Array,
    w_down_EFD: jax.Array,
  ) -> jax.Array:
    A = token_A.shape[0]
    used_R = grouping.assignment_R < A
    assignment_R = jnp.where(used_R, grouping.assignment_R, 0)
    # A padding row is a copy of token 0, with weight zero.
    token_R = jnp.where(used_R, token_A[assignment_R], 0)
    weight_R = jnp.where(used_R, weight_A[assignment_R], 0)
    return _fused(
      self.cut,
      *varying.together(
        x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, grouping.size_E
      ),
    )


@dataclasses.dataclass(frozen=True)
class CpuFusedCompute:
  """`CpuFusedSwiglu` as a Compute, with dropless rows.

  Where no gradient is taken, `cpu_few_rows` computes short lists.

  Attributes:
    loop: the loop over rows.
    most_picked: see `Compute`. By measurement with 16 experts of 128 and with
      64 of 1,024, both are equally fast at 16 assignments an expert and at 8.
  """

  loop: CpuFusedSwiglu = CpuFusedSwiglu()
  most_picked: int = 8

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    grad_accumulator: Any = None,
  ) -> base.ExpertOutput:
    del grad_accumulator
    width = x_TD.shape[1]
    w_gate_up_EDF = weights['w_in_ED2F'].reshape(num_experts, width, -1)
    arrays = (
      x_TD,
      routing.weight_A,
      w_gate_up_EDF,
      weights['w_out_EFD'],
      routing.token_A,
      base.nowhere_beyond(routing, num_experts).expert_A,
    )
    if base.is_picked(self, routing, num_experts):
      alike = varying.together(*arrays)
      out_TD = _few_rows(self.loop, routing.per_token, *alike)
    else:
      out_TD = _all_rows(self.loop, *arrays)
    return base.ExpertOutput(out_TD, routing.expert_A < num_experts)

  @property
  def rounds_weights(self) -> bool:
    return True

  @property
  def equal_stages(self) -> None:
    return None

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return base.flatten_gate_up(weights)

  def grad_accumulator(self, weights: dict[str, jax.Array]) -> None:
    del weights


def _all_rows(
  loop, x_TD, weight_A, w_gate_up_EDF, w_down_EFD, token_A, expert_A
):
  """out_TD by the loop over rows."""
  num_experts = w_down_EFD.shape[0]
  grouping = permute.group(expert_A, num_experts, loop.row_multiple)
  return loop(x_TD, weight_A, token_A, grouping, w_gate_up_EDF, w_down_EFD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _few_rows(loop, per_token, *arrays):
  """As `_all_rows`; the other loop computes it with its gradient."""
  del loop
  return cpu_few_rows.output(per_token, *arrays)


def _few_rows_fwd(loop, per_token, *arrays):
  del per_token
  *floats, token_A, expert_A = arrays

  def run(x_TD, weight_A, w_gate_up_EDF, w_down_EFD):
    w = w_gate_up_EDF, w_down_EFD
    return _all_rows(loop, x_TD, weight_A, *w, token_A, expert_A)

  return jax.vjp(run, *floats)


def _few_rows_bwd(loop, per_token, pull, dout_TD):
  del loop, per_token
  return *pull(dout_TD), None, None


_few_rows.defvjp(_few_rows_fwd, _few_rows_bwd)


def _tokens(x_TD, token_B):
  return x_TD.at[token_B].get(mode='promise_in_bounds')


def _add_rows(out_TD, rows_BD, token_B):
  return out_TD.at[token_B].add(rows_BD, mode='promise_in_bounds')


def activate(gate_BF: jax.Array, up_BF: jax.Array) -> jax.Array:
  """silu(gate) * up, in float32."""
  gate_BF, up_BF = (z.astype(jnp.float32) for z in (gate_BF, up_BF))
  return jax.nn.silu(gate_BF) * up_BF


def activate_grad(
  gate_BF: jax.Array, up_BF: jax.Array, da_BF: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `activate` to gate and up.

  Args:
    gate_BF: as in `activate`.
    up_BF: as in `activate`.
    da_BF: float32 gradient to the result of `activate`.
  """
  gate_BF, up_BF = (z.astype(jnp.float32) for z in (gate_BF, up_BF))
  sig_BF = jax.nn.sigmoid(gate_BF)
  dgate_BF = da_BF * up_BF * sig_BF * (1 + gate_BF * (1 - sig_BF))
  return dgate_BF, da_BF * gate_BF * sig_BF


def _halves(z_BF):
  gate_BF, up_BF = jnp.split(z_BF.astype(jnp.float32), 2, axis=1)
  return gate_BF, up_BF


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(cut, x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, size_E):
  return _fused_fwd(
    cut, x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, size_E
  )[0]


def _fused_fwd(cut, x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, size_E):
  dtype, R = x_TD.dtype, token_R.shape[0]

  def visit(expert, pieces, carry):
    w_DF = blocks.weights(w_gate_up_EDF, expert, dtype)
    w_FD = blocks.weights(w_down_EFD, expert, dtype)

    def body(start, length, carry):
      out_TD, z_RF = carry
      token_B = blocks.read(token_R, start, length)
      weight_B1 = blocks.read(weight_R, start, length)[:, None]
      z_BF = blocks.dot(_tokens(x_TD, token_B), w_DF, 1, 0).astype(dtype)
      a_BF = (activate(*_halves(z_BF)) * weight_B1).astype(dtype)
      out_TD = _add_rows(out_TD, blocks.dot(a_BF, w_FD, 1, 0), token_B)
      return out_TD, blocks.write(z_RF, z_BF, start)

    return pieces(body, carry)

  out_TD = jnp.zeros((x_TD.shape[0], w_down_EFD.shape[2]), jnp.float32)
  z_RF = jnp.zeros((R, w_gate_up_EDF.shape[2]), dtype)
  carry = tuple(varying.like(zero, x_TD) for zero in (out_TD, z_RF))
  out_TD, z_RF = cut.each_expert(size_E, R, visit, carry)
  kept = (x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, size_E, z_RF)
  return out_TD.astype(dtype), kept


def _fused_bwd(cut, kept, dout_TD):
  x_TD, weight_R, w_gate_up_EDF, w_down_EFD, token_R, size_E, z_RF = kept
  dtype, R = x_TD.dtype, token_R.shape[0]

  def zeros(shape, dtype=jnp.float32):
    return varying.like(jnp.zeros(shape, dtype), x_TD)

  def visit(expert, pieces, carry):
    w_DF = blocks.weights(w_gate_up_EDF, expert, dtype)
    w_FD = blocks.weights(w_down_EFD, expert, dtype)

    def body(start, length, carry):
      dx_TD, dweight_R, dw_DF, dw_FD = carry
      token_B = blocks.read(token_R, start, length)
      weight_B1 = blocks.read(weight_R, start, length)[:, None]
      dout_BD = _tokens(dout_TD, token_B)
      g_BF = blocks.dot(dout_BD, w_FD, 1, 1)
      z_BF = blocks.read(z_RF, start, length)
      gate_BF, up_BF = _halves(z_BF)
      a_BF = activate(gate_BF, up_BF)
      dweight_B = jnp.sum(g_BF * a_BF, axis=1)
      a_BF = (a_BF * weight_B1).astype(dtype)
      dz = activate_grad(gate_BF, up_BF, g_BF * weight_B1)
      dz_BF = jnp.concatenate(dz, axis=1).astype(dtype)
      dx_BD = blocks.dot(dz_BF, w_DF, 1, 1)
      return (
        _add_rows(dx_TD, dx_BD, token_B),
        blocks.write(dweight_R, dweight_B, start),
        dw_DF + linear.over_rows(_tokens(x_TD, token_B), dz_BF),
        dw_FD + linear.over_rows(a_BF, dout_BD),
      )

    dx_TD, dweight_R, dw_gate_up_EDF, dw_down_EFD = carry
    initial = (dx_TD, dweight_R, zeros(w_DF.shape), zeros(w_FD.shape))
    dx_TD, dweight_R, dw_DF, dw_FD = pieces(body, initial)
    return (
      dx_TD,
      dweight_R,
      blocks.set_weights(dw_gate_up_EDF, dw_DF, expert),
      blocks.set_weights(dw_down_EFD, dw_FD, expert),
    )

  carry = (
    zeros(x_TD.shape),
    zeros(weight_R.shape),
    zeros(w_gate_up_EDF.shape, w_gate_up_EDF.dtype),
    zeros(w_down_EFD.shape, w_down_EFD.dtype),
  )
  dx_TD, *grads = cut.each_expert(size_E, R, visit, carry)
  return dx_TD.astype(dtype), *grads, None, None


_fused.defvjp(_fused_fwd, _fused_bwd)
