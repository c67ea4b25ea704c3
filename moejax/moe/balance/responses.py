"""How strongly experts respond to the rows of the router's matrix."""

import jax
import jax.numpy as jnp

LEAST_NORM = 1e-6


def matrix(
  rows_ED: jax.Array, w_gate_EDF: jax.Array, key: jax.Array | None
) -> jax.Array:
  """M_ij = |R_i W_j|, float32 [E, E], for rows R_i and gate matrices W_j.

  It is for the expert-router coupling loss (arXiv 2512.23447, section 3). In
  training each number of row i is multiplied by noise from U(1 - e_i, 1 + e_i),
  where e_i is half the distance to the nearest other row, over the length of
  row i. So a noisy row stays nearer to its own row than to any other. The
  gradient goes through rows and gate matrices, not through e.

  Args:
    rows_ED: the router's centroids.
    w_gate_EDF: the gate matrices of the experts.
    key: random key of the noise; None means evaluation: no noise.
  """
  rows_ED = rows_ED.astype(jnp.float32)
  if key is not None:
    fixed_ED = jax.lax.stop_gradient(rows_ED)
    apart_EE = jnp.linalg.norm(fixed_ED[:, None] - fixed_ED, axis=-1)
    apart_EE = jnp.where(jnp.eye(len(rows_ED)) > 0, jnp.inf, apart_EE)
    length_E = jnp.maximum(jnp.linalg.norm(fixed_ED, axis=-1), LEAST_NORM)
    reach_E1 = (jnp.min(apart_EE, axis=-1) / (2 * length_E))[:, None]
    reach_E1 = jnp.where(jnp.isfinite(reach_E1), reach_E1, 0.0)
    noise_ED = jax.random.uniform(key, rows_ED.shape, minval=-1.0)
    rows_ED = rows_ED * (1 + reach_E1 * noise_ED)
  answer_EEF = jnp.einsum(
    'iD,jDF->ijF', rows_ED, w_gate_EDF.astype(jnp.float32)
  )
  square_EE = jnp.sum(jnp.square(answer_EEF), axis=-1)
  # A length of zero has a gradient of zero.
  large_EE = square_EE > LEAST_NORM**2
  return jnp.where(large_EE, jnp.sqrt(jnp.where(large_EE, square_EE, 1)), 0.0)
