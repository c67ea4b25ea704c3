"""The products of SwiGLU experts, each with its elementwise work: TPU kernels.

  forward   a = silu(x w_gate) * (x w_up)
  backward  gate and up, kept or recomputed, g = dout w_down^T, and from them
            a times its weight, <g, a>, and the gradients dgate and dup
  rows      dx = dgate w_gate^T + dup w_up^T

Nothing is written to memory between a product and its elementwise work. Rows of
no expert hold arbitrary values; see `pallas_fused_swiglu` for why this is safe.
"""

import jax
import jax.numpy as jnp

from moejax.moe.compute import cpu_fused_swiglu
from moejax.moe.compute.pallas_epilogue import KernelBody, Operands, run
from moejax.moe.compute.pallas_grouped_matmul import (
  Megablox,
  padded,
  unchecked,
)

# w_gate_EDF, w_up_EDF and w_down_EFD.
Weights = tuple[jax.Array, jax.Array, jax.Array]


def forward(
  kernel: Megablox,
  x_RD: jax.Array,
  w: Weights,
  size_E: jax.Array,
  keep: bool,
) -> list[jax.Array]:
  """a_RF in the type of `x_RD`; with `keep` also gate_RF and up_RF."""

  def finish(sums, _):
    # Rounded to the type in which the backward pass reads them.
    gate, up = (s.astype(x_RD.dtype) for s in sums)
    a = cpu_fused_swiglu.activate(gate, up)
    return (a, gate, up) if keep else (a,)

  body = KernelBody(
    sums=(((0, 0),), ((0, 1),)),
    outs=(x_RD.dtype,) * (3 if keep else 1),
    finish=finish,
    transpose=(False, False),
    temporaries=3,
  )
  return _run(kernel, body, Operands((x_RD,), w[:2]), size_E)


def backward(
  kernel: Megablox,
  kept: tuple[jax.Array, ...],
  dout_RD: jax.Array,
  weight_R1: jax.Array,
  w: Weights,
  size_E: jax.Array,
) -> list[jax.Array]:
  """a_RF times its weight, dgate_RF, dup_RF, and partial sums of <g, a> [R, P].

  Args:
    kernel: for its tiles of rows.
    kept: (x_RD,), from which gate and up are recomputed; or (x_RD, gate_RF,
      up_RF), of which x_RD is not read.
    dout_RD: rows of the output's gradient.
    weight_R1: float32, the weight of each row's assignment.
    w: the experts' weights.
    size_E: rows of each expert.
  """
  (x_RD, *z), dtype = kept, dout_RD.dtype
  remat = not z

  def finish(sums, beside):
    halves, weight = sums[1:] if remat else beside[:2], beside[-1]
    gate, up = (half.astype(dtype) for half in halves)
    g = sums[0].astype(dtype).astype(jnp.float32)
    a = cpu_fused_swiglu.activate(gate, up)
    dz = cpu_fused_swiglu.activate_grad(gate, up, g * weight)
    return a * weight, *dz, g * a

  body = KernelBody(
    sums=(((0, 0),), ((1, 1),), ((1, 2),)) if remat else (((0, 0),),),
    outs=(dtype,) * 3,
    finish=finish,
    transpose=(True, False, False) if remat else (True,),
    partial=True,
    temporaries=5,
  )
  operands = (
    Operands((dout_RD, x_RD), (w[2], *w[:2]), (weight_R1,))
    if remat
    else Operands((dout_RD,), w[2:], (*z, weight_R1))
  )
  return _run(kernel, body, operands, size_E)


def rows(
  kernel: Megablox,
  dz: list[jax.Array],
  w: Weights,
  size_E: jax.Array,
) -> jax.Array:
  """dx_RD from dgate_RF and dup_RF."""
  body = KernelBody(
    sums=(((0, 0), (1, 1)),),
    outs=(dz[0].dtype,),
    finish=lambda sums, _: sums,
    transpose=(True, True),
  )
  return _run(kernel, body, Operands(tuple(dz), w[:2]), size_E)[0]


def _run(kernel, body, operands, size_E):
  """The results of a kernel; operands are padded to whole tiles of rows."""
  num_rows = operands.xs[0].shape[0]
  tile = kernel.row_tile(num_rows, size_E.shape[0])
  operands = Operands(
    tuple(padded(x, tile) for x in operands.xs),
    tuple(w.astype(operands.xs[0].dtype) for w in operands.ws),
    tuple(padded(z, tile) for z in operands.beside),
  )
  leaves, structure = jax.tree.flatten((operands, size_E))

  def call(*leaves):
    operands, size_E = jax.tree.unflatten(structure, leaves)
    return run(body, operands, size_E, tile, kernel.interpret)

  return [y[:num_rows] for y in unchecked(call, *leaves)]
