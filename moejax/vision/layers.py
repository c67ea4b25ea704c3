"""The layers of which encoders and projectors are made."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import linear
from moejax.vision.activations import ACTIVATIONS


def matrix(
  key: jax.Array, shape: tuple[int, ...], axes: tuple[str, ...], std: float
) -> nnx.Param:
  """A float32 matrix, drawn with a standard deviation, that decays.

  Args:
    key: random key.
    shape: of the matrix.
    axes: the name of each dimension, for `parallel.rules`.
    std: standard deviation.
  """
  return nnx.Param(std * jax.random.normal(key, shape), axes=axes, decays=True)


def zeros(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
  """A float32 bias that starts at zero and does not decay."""
  return nnx.Param(jnp.zeros(shape), axes=axes, decays=False)


class LayerNorm(nnx.Module):
  """(x - mean) / sqrt(variance + eps) * scale + bias, in float32.

  Source: arXiv 1607.06450.
  """

  def __init__(self, width: int, eps: float):
    self.eps = eps
    self.scale_D = nnx.Param(jnp.ones((width,)), axes=('embed',), decays=False)
    self.bias_D = zeros((width,), ('embed',))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises the last dimension; the result has the type of `x`."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    y = x32 * jax.lax.rsqrt(variance + self.eps)
    return (y * self.scale_D[...] + self.bias_D[...]).astype(x.dtype)


class FeedForward(nnx.Module):
  """Two matrices with biases, and an activation between them."""

  def __init__(
    self,
    sizes: tuple[int, int, int],
    activation: str,
    std: float,
    platform: str,
    key: jax.Array,
  ):
    """Makes the weights.

    Args:
      sizes: widths of the input, between the matrices, and of the output.
      activation: a name in ACTIVATIONS.
      std: standard deviation of the matrices.
      platform: the platform of the devices.
      key: random key.
    """
    width, hidden, out = sizes
    keys = jax.random.split(key)
    self.w_in_DF = matrix(keys[0], (width, hidden), ('embed', 'mlp'), std)
    self.b_in_F = zeros((hidden,), ('mlp',))
    self.w_out_FD = matrix(keys[1], (hidden, out), ('mlp', 'embed'), std)
    self.b_out_D = zeros((out,), ('embed',))
    self.activation = ACTIVATIONS[activation]
    self.linear = linear.of(platform)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] to [..., D] of the output, in the type of `x`."""
    dtype = x.dtype
    x = self.linear(x, self.w_in_DF[...].astype(dtype))
    x = self.activation(x + self.b_in_F[...].astype(dtype))
    x = self.linear(x, self.w_out_FD[...].astype(dtype))
    return x + self.b_out_D[...].astype(dtype)


def attend(
  q_BNHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array
) -> jax.Array:
  """Every query sees every key of its image; the softmax is in float32.

  Returns:
    [B, N, H, K] in the type of the queries.
  """
  score_BHNS = jnp.einsum(
    'bnhk,bshk->bhns', q_BNHK, k_BSHK, preferred_element_type=jnp.float32
  )
  prob_BHNS = jax.nn.softmax(score_BHNS / math.sqrt(q_BNHK.shape[-1]), axis=-1)
  return jnp.einsum('bhns,bshk->bnhk', prob_BHNS.astype(v_BSHK.dtype), v_BSHK)
