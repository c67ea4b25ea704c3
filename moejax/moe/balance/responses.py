"""How strongly experts answer to the rows of the router."""

import jax
import jax.numpy as jnp

LEAST_NORM = 1e-6


def matrix(
  rows_ED: jax.Array, w_gate_EDF: jax.Array, key: jax.Array | None
) -> jax.Array:
  """M, [E, E]: the length of R_i W_j, rows of the router in front.

  It is for the expert-router coupling loss (arXiv 2512.23447, section 3). In
  training each number of row i is multiplied by one from 1 - e_i to 1 + e_i,
  where e_i is half the distance to the nearest other row, over the length of
  row i: a noisy row stays nearer to its own than to any other. The gradient
  goes through rows and experts, not through e.

  Args:
    rows_ED: the router's centroids.
    w_gate_EDF: the gate matrices of the experts.
    key: of the noise; None means evaluation.
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
  # The gradient of a length of zero is zero.
  large_EE = square_EE > LEAST_NORM**2
  return jnp.where(large_EE, jnp.sqrt(jnp.where(large_EE, square_EE, 1)), 0.0)
