"""Expert weights, and pure functions of them over grouped rows."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

# (x_RD, w_EDF, size_E) -> y_RF: see grouped_matmul.py.
Multiply = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class SwiGLU:
  """w_out (silu(w_gate x) * (w_up x)), without biases.

  The two input matrices are one weight, so that they are one matmul.
  """

  def init(
    self, key: jax.Array, num_experts: int, width: int, hidden: int, std: float
  ) -> dict[str, nnx.Param]:
    """Weights of all experts by name, float32."""
    key_in, key_out = jax.random.split(key)
    w_in = jax.random.normal(key_in, (num_experts, width, 2, hidden))
    w_out = jax.random.normal(key_out, (num_experts, hidden, width))
    # One expert is a dense feed-forward: there is nothing to split.
    expert = 'expert' if num_experts > 1 else 'unsharded'
    return {
      'w_in_ED2F': nnx.Param(
        std * w_in, axes=(expert, 'embed', 'unsharded', 'mlp')
      ),
      'w_out_EFD': nnx.Param(std * w_out, axes=(expert, 'mlp', 'embed')),
    }

  def __call__(
    self,
    w: dict[str, jax.Array],
    x_RD: jax.Array,
    size_E: jax.Array,
    multiply: Multiply,
  ) -> jax.Array:
    """y_RD: the rows of each group through its expert."""
    num_experts, width = w['w_in_ED2F'].shape[:2]
    w_in = w['w_in_ED2F'].reshape(num_experts, width, -1)
    gate_RF, up_RF = jnp.split(multiply(x_RD, w_in, size_E), 2, axis=-1)
    return multiply(jax.nn.silu(gate_RF) * up_RF, w['w_out_EFD'], size_E)

  def dense(self, w: dict[str, jax.Array], x_TD: jax.Array) -> jax.Array:
    """All rows through one expert (E = 1): shared experts, dense layers."""
    w_in, w_out = w['w_in_ED2F'][0], w['w_out_EFD'][0]
    h_T2F = x_TD @ w_in.reshape(w_in.shape[0], -1)
    gate_TF, up_TF = jnp.split(h_T2F, 2, axis=-1)
    return (jax.nn.silu(gate_TF) * up_TF) @ w_out


EXPERTS = {'swiglu': SwiGLU}
