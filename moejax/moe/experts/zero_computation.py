"""Experts without computation, which a token can choose in place of a network.

In a router's numbering they follow the experts with weights, in the order
constants, copies, zeros. A router needs nothing special: it chooses among all.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields, varying
from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class ZeroComputation(fields.Checked):
  """Experts that give zero, the token itself, or a mix with a constant.

  MoE++ (arXiv 2410.07348, equations 3 to 5):
    zero       0
    copy       x
    constant   a1 x + a2 v, with [a1, a2] = softmax(W_c x), v and W_c learned
  LongCat-Flash (arXiv 2509.01322) has copies alone.

  Each contributes its output times the token's gate for it. The gate is the
  router's, unchanged: a token that chooses a zero loses that share. (MoE++'s
  released code takes zeros out and renormalises the kept gates. That belongs in
  a router, and no router here does it.)

  Example, 2 experts with weights, one copy (2) and one zero (3), MoE++'s top 2:
    probabilities of a token   [.1015, .1674, .4551, .2760]
    chosen 2 and 3             output .4551 x + .2760 * 0 = .4551 x

  A router's `experts_per_token` counts all its choices. `share` of them have
  weights, on average, when loads are at the target of the balance rule. MoE++'s
  target for each of Z choices without computation is 1 / tau times the load of
  each of N experts, so the share is tau N / (tau N + Z). The target of
  LongCat's bias rule is K_e of K.

  Attributes:
    zero: number of experts that give zero.
    copy: number of experts that give the token itself.
    constant: number of experts that mix the token with a learned constant.
  """

  zero: int = fields.number(0, at_least=0, at_most=10**6)
  copy: int = fields.number(0, at_least=0, at_most=10**6)
  constant: int = fields.number(0, at_least=0, at_most=10**6)

  @property
  def num(self) -> int:
    """Z, the number of all three kinds together."""
    return self.zero + self.copy + self.constant

  def share(self, num_experts: int, tau: float = 1.0) -> float:
    """Share of a router's choices that go to experts with weights.

    It is that of a balanced load, with tau as in MoE++'s balance.

    Example: 8 experts and 4 without computation, tau = 0.75: 6 / 10.
    """
    if not self.num:
      return 1.0
    return tau * num_experts / (tau * num_experts + self.num)

  def init(self, key: jax.Array, width: int) -> dict[str, nnx.Param]:
    """Weights of the constants; v starts as N(0, 1), as in MoE++'s code.

    W_c starts like a linear layer of PyTorch; the paper does not state how.
    """
    if not self.constant:
      return {}
    keys = jax.random.split(key)
    edge = 1 / math.sqrt(width)
    v_CD = jax.random.normal(keys[0], (self.constant, width), jnp.float32)
    w_CD2 = jax.random.uniform(
      keys[1], (self.constant, width, 2), jnp.float32, -edge, edge
    )
    return {
      'v_CD': nnx.Param(v_CD, axes=('unsharded',) * 2, decays=False),
      'w_CD2': nnx.Param(w_CD2, axes=('unsharded',) * 3, decays=True),
    }

  def __call__(
    self, w: dict[str, jax.Array], x_TD: jax.Array, gate_TZ: jax.Array
  ) -> jax.Array:
    """y_TD: the weighted sum of their outputs, in the type of `x_TD`.

    Args:
      w: from `init`.
      x_TD: token vectors.
      gate_TZ: float32 weight of each choice without computation for each token;
        0 where it is not chosen.
    """
    if gate_TZ.shape[1] != self.num:
      raise ValueError(f'{gate_TZ.shape[1]} gates for {self.num} of {self}')
    gate_TC, gate_TO, _ = jnp.split(
      gate_TZ, [self.constant, self.constant + self.copy], axis=1
    )
    keep_T1 = gate_TO.sum(axis=1, keepdims=True)
    if not self.constant:
      return keep_T1.astype(x_TD.dtype) * x_TD
    mix_TC2 = jax.nn.softmax(
      jnp.einsum(
        'TD,CDi->TCi',
        x_TD.astype(jnp.float32),
        w['w_CD2'].astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
      ),
      axis=-1,
    )
    share_TC2 = gate_TC[..., None] * mix_TC2
    keep_T1 = keep_T1 + share_TC2[..., 0].sum(axis=1, keepdims=True)
    constant_TD = share_TC2[..., 1].astype(x_TD.dtype) @ w['v_CD'].astype(
      x_TD.dtype
    )
    return keep_T1.astype(x_TD.dtype) * x_TD + constant_TD


def gates(
  routing: contract.Routing, num_experts: int, num_zero: int
) -> tuple[jax.Array, jax.Array]:
  """The weight of each choice without computation, gate_TZ, and is_zero_A.

  Example, 2 experts and 2 choices without computation, T=2:
    token_A   [0,  1,  0,  1 ]
    expert_A  [2,  0,  1,  3 ]      2 and 3 are those without computation
    weight_A  [.6, .7, .4, .3]
    gate_TZ   [[.6, 0], [0, .3]]
    is_zero_A [1,  0,  0,  1 ]

  Args:
    routing: of all choices.
    num_experts: number of choices with weights, which come first.
    num_zero: Z, number of choices without computation.
  """
  choice_A = routing.expert_A - num_experts
  is_zero_A = (choice_A >= 0) & (choice_A < num_zero)
  choice_A = jnp.where(is_zero_A, choice_A, num_zero)
  gate_TZ = jnp.zeros((routing.prob_TE.shape[0], num_zero))
  gate_TZ = varying.like(gate_TZ, routing.weight_A)
  gate_TZ = gate_TZ.at[routing.token_A, choice_A].add(
    routing.weight_A, mode='drop'
  )
  return gate_TZ, is_zero_A
