"""The loss of distillation with both output heads, chunk by chunk.

As `cross_entropy.py`: the logits of the whole batch are never in memory at
once, neither the student's nor the teacher's, and the gradient is computed in
the forward pass, while the logits of a chunk are in memory.

The gradient of the loss of one token by the student's logits z is

  softmax(z) - onehot(target) + weight / T * (softmax(z / T) - softmax(y / T))

with the teacher's logits y and the temperature T.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.parallel import mesh as meshes
from moejax.train import cross_entropy
from moejax.train.cross_entropy import dot
from moejax.train.distillation import Distillation


class Heads(NamedTuple):
  """Both models before their heads.

  Attributes:
    x_BLD: the student's hidden states, already normalised.
    w_DV: its head, with D whole on every device.
    h_BLE: the teacher's hidden states; E is its width.
    v_EV: its head.
  """

  x_BLD: jax.Array
  w_DV: jax.Array
  h_BLE: jax.Array
  v_EV: jax.Array


class Losses(NamedTuple):
  """Sums over a batch, and each token's part.

  Attributes:
    total: sum of (nll + weight * divergence) over the tokens, each with its
      weight in the batch. Only this has gradients: to the student's hidden
      states and head, and to the weights in the batch.
    nll_BL: float32, -log P(target) of each token, in nats.
    divergence_BL: float32, KL(teacher || student) of each token, in nats.
    correct_BL: bool, whether no token scores higher than the target.
  """

  total: jax.Array
  nll_BL: jax.Array
  divergence_BL: jax.Array
  correct_BL: jax.Array


def on_mesh(
  heads: Heads,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  distillation: Distillation,
  mesh: jax.sharding.Mesh,
) -> Losses:
  """`losses` with the chunks and shards that suit a mesh."""
  tokens = (heads.x_BLD, heads.h_BLE, target_BL, weight_BL)
  (x_PSD, h_PSE, target_PS, weight_PS), join = cross_entropy.by_place(
    tokens, mesh
  )
  total, *by_token = losses(
    heads._replace(x_BLD=x_PSD, h_BLE=h_PSE),
    target_PS,
    weight_PS,
    distillation,
    chunk_tokens=cross_entropy.chunk_tokens(mesh),
    shards=meshes.batch_size(mesh),
    platform=mesh.devices.flat[0].platform,
  )
  return Losses(total, *join(by_token))


def losses(
  heads: Heads,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  distillation: Distillation,
  chunk_tokens: int = 512,
  shards: int = 1,
  platform: str = '',
) -> Losses:
  """Cross-entropy and divergence from a teacher (M-SMoE, arXiv 2310.01334).

  The products have factors of the dtype of each model's hidden states and are
  summed in float32. All else is float32.

  Args:
    heads: both models before their heads.
    target_BL: int32 in [0, V).
    weight_BL: float32; a position of weight 0 is left out.
    distillation: weight and temperature of the divergence.
    chunk_tokens: number of tokens of a chunk on one device.
    shards: number of devices over which B is split (data x fsdp x expert).
    platform: of the devices, which may have its own form of a product.

  Raises:
    InputError: `shards` does not divide B.
  """
  chunked = cross_entropy.Chunks.of(target_BL, chunk_tokens, shards)
  x_NSCD, h_NSCE, target_NSC, weight_NSC = map(
    chunked.split, (heads.x_BLD, heads.h_BLE, target_BL, weight_BL)
  )
  arrays = varying.together(
    x_NSCD, heads.w_DV, h_NSCE, heads.v_EV, weight_NSC, target_NSC
  )
  static = platform, distillation.weight, distillation.temperature
  total, *by_token = _chunks(static, *arrays)
  joined = [chunked.join(jax.lax.stop_gradient(x_NSC)) for x_NSC in by_token]
  return Losses(total, *joined)


def _logits(x_SCD, w_DV):
  return dot('scd,dv->scv', x_SCD, w_DV)


def _divergence(static, logit_SCV, teacher_SCV):
  """KL(teacher || student) [S, C], and its gradient by the student's logits."""
  _, _, temperature = static
  p_SCV = jax.nn.log_softmax(logit_SCV / temperature)
  q_SCV = jax.nn.log_softmax(teacher_SCV / temperature)
  divergence_SC = jnp.sum(jnp.exp(q_SCV) * (q_SCV - p_SCV), axis=-1)
  return divergence_SC, (jnp.exp(p_SCV) - jnp.exp(q_SCV)) / temperature


def _sum(static, weight_NSC, nll_NSC, divergence_NSC):
  """The sum of all losses, and the loss of each token."""
  loss_NSC = nll_NSC + static[1] * divergence_NSC
  return jnp.sum(loss_NSC * weight_NSC), loss_NSC


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks(static, x_NSCD, w_DV, h_NSCE, v_EV, weight_NSC, target_NSC):
  w_DV, v_EV = w_DV.astype(x_NSCD.dtype), v_EV.astype(h_NSCE.dtype)

  def body(chunk):
    x_SCD, h_SCE, target_SC = chunk
    logit_SCV = _logits(x_SCD, w_DV)
    (nll_SC, correct_SC), _ = cross_entropy.of_logits(logit_SCV, target_SC)
    divergence_SC, _ = _divergence(static, logit_SCV, _logits(h_SCE, v_EV))
    return nll_SC, divergence_SC, correct_SC

  by_token = jax.lax.map(body, (x_NSCD, h_NSCE, target_NSC))
  return _sum(static, weight_NSC, *by_token[:2])[0], *by_token


def _chunks_fwd(static, x_NSCD, w_DV, h_NSCE, v_EV, weight_NSC, target_NSC):
  dtype, param_dtype = x_NSCD.dtype, w_DV.dtype
  w_DV, v_EV = w_DV.astype(dtype), v_EV.astype(h_NSCE.dtype)
  platform, weight, _ = static

  def body(dw_SDV, chunk):
    x_SCD, h_SCE, weight_SC, target_SC = chunk
    logit_SCV = _logits(x_SCD, w_DV)
    (nll_SC, correct_SC), (exp_SCV, total_SC, own_SCV) = (
      cross_entropy.of_logits(logit_SCV, target_SC)
    )
    divergence_SC, slope_SCV = _divergence(
      static, logit_SCV, _logits(h_SCE, v_EV)
    )
    dlogit_SCV = exp_SCV / total_SC[..., None] - own_SCV
    dlogit_SCV = (dlogit_SCV + weight * slope_SCV).astype(dtype)
    # The token's weight is applied to x and dx, which are smaller.
    scale_SC1 = weight_SC[..., None]
    dx_SCD = dot('scv,dv->scd', dlogit_SCV, w_DV) * scale_SC1
    scaled_SCD = (x_SCD * scale_SC1).astype(dtype)
    dw_SDV += cross_entropy.over_rows(platform, scaled_SCD, dlogit_SCV)
    by_token = nll_SC, divergence_SC, correct_SC
    return dw_SDV, (*by_token, dx_SCD.astype(dtype))

  dw_SDV = jnp.zeros((x_NSCD.shape[1], *w_DV.shape), jnp.float32)
  dw_SDV, (*by_token, dx_NSCD) = jax.lax.scan(
    body,
    varying.like(dw_SDV, x_NSCD),
    (x_NSCD, h_NSCE, weight_NSC, target_NSC),
  )
  total, loss_NSC = _sum(static, weight_NSC, *by_token[:2])
  dw_DV = jnp.sum(dw_SDV, axis=0).astype(param_dtype)
  return (total, *by_token), (dx_NSCD, dw_DV, loss_NSC)


def _chunks_bwd(static, residuals: Any, cotangents: Any) -> Any:
  del static
  scale = cotangents[0]
  dx_NSCD, dw_DV, dweight_NSC = ((x * scale).astype(x.dtype) for x in residuals)
  # The teacher does not learn.
  return dx_NSCD, dw_DV, None, None, dweight_NSC, None


_chunks.defvjp(_chunks_fwd, _chunks_bwd)
