"""Special functions whose derivatives may be taken inside `jax.shard_map`.

JAX 0.12 writes the derivatives of `erf` and what is made of it as polynomials
whose coefficients do not vary over mesh axes, which `shard_map` refuses. Here
the derivatives are written out; values and derivatives are those of JAX 0.10 to
the bit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


@jax.custom_jvp
def erfc(x: jax.Array) -> jax.Array:
  """The complementary error function, of any shape and float type."""
  return jax.lax.erfc(x)


@erfc.defjvp
def _erfc_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return erfc(x), np.array(-2 / np.sqrt(np.pi), x.dtype) * (dx * _bell(x))


@jax.custom_jvp
def normal_cdf(x: jax.Array) -> jax.Array:
  """Phi(x): the share of a standard normal distribution below x; float32."""
  return jax.scipy.stats.norm.cdf(x)


@normal_cdf.defjvp
def _normal_cdf_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  root = np.float32(0.5) * np.sqrt(np.float32(2))
  slope = np.float32(2 / np.sqrt(np.pi)) * ((dx * root) * _bell(x * root))
  return normal_cdf(x), np.float32(0.5) * slope


def gelu(x: jax.Array) -> jax.Array:
  """X Phi(x), the exact one (Hendrycks and Gimpel, arXiv 1606.08415)."""
  root = np.sqrt(0.5).astype(x.dtype)
  return 0.5 * x * erfc(-x * root)


def gelu_tanh(x: jax.Array) -> jax.Array:
  """GELU by the hyperbolic tangent (arXiv 1606.08415, section 2)."""
  root = math.sqrt(2 / math.pi)
  return 0.5 * x * (1 + jnp.tanh(root * (x + 0.044715 * x**3)))


def quick_gelu(x: jax.Array) -> jax.Array:
  """X sigmoid(1.702 x): the approximation of GELU in OpenAI's CLIP weights."""
  return x * jax.nn.sigmoid(1.702 * x)


def _bell(x: jax.Array) -> jax.Array:
  return jnp.exp(-jnp.square(x))
