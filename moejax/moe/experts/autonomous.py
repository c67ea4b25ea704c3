"""Experts that are chosen by the length of their first, low-rank product."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields, linear
from moejax.moe.experts.base import Multiply


@dataclasses.dataclass(frozen=True)
class AutonomousSwiGLU(fields.Checked):
  """SwiGLU with a factored gate: (silu((x W_down) W_up) * (x W_p)) W_out.

  Autonomy-of-Experts (arXiv 2501.13074, section 3). The scorer `expert_norm`
  chooses experts by the length of x W_down.

  Attributes:
    rank: r of x W_down; 0 takes D F / (D + F), rounded down, with which an
      expert has as many parameters as a SwiGLU of the same width F. (The
      paper's setting, D 1536 and F 768, gives its r of 512.)
  """

  rank: int = fields.number(
    0, at_least=0, note='0: as many parameters as SwiGLU'
  )

  def init(
    self,
    key: jax.Array,
    num_experts: int,
    width: int,
    hidden: int,
    std: float,
    out: int | None = None,
  ) -> dict[str, nnx.Param]:
    """Weights of all experts by name, float32."""
    rank = self.rank or max(1, width * hidden // (width + hidden))
    # One expert is a dense feed-forward, without experts to split.
    expert = 'expert' if num_experts > 1 else 'unsharded'
    shapes = {
      'w_down_EDR': ((width, rank), ('embed', 'unsharded')),
      'w_up_ERF': ((rank, hidden), ('unsharded', 'mlp')),
      'w_p_EDF': ((width, hidden), ('embed', 'mlp')),
      'w_out_EFD': ((hidden, out or width), ('mlp', 'embed')),
    }
    return {
      name: nnx.Param(
        std * jax.random.normal(one, (num_experts, *shape), jnp.float32),
        axes=(expert, *axes),
        decays=True,
      )
      for one, (name, (shape, axes)) in zip(
        jax.random.split(key, len(shapes)), shapes.items(), strict=True
      )
    }

  def __call__(
    self,
    w: dict[str, jax.Array],
    x_RD: jax.Array,
    size_E: jax.Array,
    multiply: Multiply,
  ) -> jax.Array:
    """y_RD: the rows of each group through its expert."""
    low_RZ = multiply(x_RD, w['w_down_EDR'], size_E)
    gate_RF = multiply(low_RZ, w['w_up_ERF'], size_E)
    up_RF = multiply(x_RD, w['w_p_EDF'], size_E)
    return multiply(jax.nn.silu(gate_RF) * up_RF, w['w_out_EFD'], size_E)

  def dense(
    self,
    w: dict[str, jax.Array],
    x_TD: jax.Array,
    product: linear.Linear = linear.plain,
  ) -> jax.Array:
    """All rows through one expert (E = 1): shared experts."""
    low_TR = product(x_TD, w['w_down_EDR'][0])
    gate_TF = product(low_TR, w['w_up_ERF'][0])
    up_TF = product(x_TD, w['w_p_EDF'][0])
    return product(jax.nn.silu(gate_TF) * up_TF, w['w_out_EFD'][0])
