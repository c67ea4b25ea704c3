"""Hashes of integers: numbers that look random, without key, state or table.

They are the same on every machine and mesh, and after a restart.
"""

import jax
import jax.numpy as jnp


def mix(*parts: jax.Array | int) -> jax.Array:
  """One uint32 out of several integers that broadcast against each other.

  With all but one part fixed, different values of that part give different
  results. Example: `mix(7, token_T[:, None], jnp.arange(E))` is uint32 [T, E].
  """
  state = jnp.uint32(0x9E3779B9)
  for part in parts:
    state = _scramble(state ^ jnp.asarray(part).astype(jnp.uint32))
  return state


def below(num: int, *parts: jax.Array | int) -> jax.Array:
  """int32 in [0, num) out of several integers; for num far below 2^32."""
  return (mix(*parts) % jnp.uint32(num)).astype(jnp.int32)


def distinct(num: int, k: int, *parts: jax.Array | int) -> jax.Array:
  """Different int32 in [0, num), k of them, out of integers [T]: [T, k].

  Each of the numbers gets a hash of its own and the k largest win (rendezvous
  hashing), so that all sets of k are equally likely.
  """
  parts_T1 = [jnp.asarray(part)[..., None] for part in parts]
  hash_TN = mix(*parts_T1, jnp.arange(num))
  # Not every backend sorts unsigned numbers; one bit less, and they are signed.
  return jax.lax.top_k((hash_TN >> 1).astype(jnp.int32), k)[1]


def _scramble(x: jax.Array) -> jax.Array:
  """A bijection in which each bit of the input moves half of the output's.

  The last step of MurmurHash3 for 32 bits (A. Appleby, public domain).
  """
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
