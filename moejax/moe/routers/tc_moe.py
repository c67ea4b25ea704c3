"""TC-MoE: each expert may be added, subtracted, or left out."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import any_number, fixed_k, scores


@dataclasses.dataclass(frozen=True)
class TCMoE(fixed_k.FixedK):
  """Ternary choice: +e, -e or null, by one softmax over 2E + N logits.

  TC-MoE (Yan et al., ICLR 2025):

  1. The logits are those of +0 .. +(E-1), -0 .. -(E-1), null 0 .. null N-1, in
     this order. A constant is added to each kind: 0, -1 and -10.
  2. p is the softmax over all 2E + N logits; the k largest p are chosen.
  3. The weight of +e is p / (sum of the chosen p that are not null + sum of ALL
     null p). The weight of -e is the same with a minus. A null choice computes
     nothing.

  Example, E=2, N=1, k=2, after the constants:
    logits   +0: 2.0   +1: 1.0   -0: 2.2   -1: 0.5   null: 1.0
    p            .3144     .1157     .3841     .0702       .1157
    chosen   -0 with .3841 / (.3841 + .3144 + .1157) = .4717, +0 with .3862
    sent     expert 0 with weight .3862 - .4717 = -.0855

  If a token chooses both signs of an expert, the two assignments are merged
  into one with the sum of their weights, as in the example. The output is the
  same, and the expert computes the token once. In the released code the line
  that negates is undone by the next line, so that -e acts as +e; here the sign
  is the paper's. Another reimplementation learns the constants as a bias.

  A selection bias is added to both signs of its expert. `prob_TE` is the sum of
  p over both signs, divided by the total of these sums over the experts.
  `extra` has three arrays: folded_TE, the sums before the division; null_T, the
  sum of all null p; and copies_TE, how many signs of each expert a token chose,
  2 where they are merged.

  Attributes:
    k: choices per token, null choices included.
    num_null: N, the number of null choices; 2 in the released model, which has
      8 experts and k = 2.
    negative_offset: the constant that is added to the logits of -e.
    null_offset: the constant that is added to the logits of null choices.
  """

  experts_are_alike: ClassVar[bool] = False

  num_null: int = fields.number(2, at_least=0)
  negative_offset: float = fields.number(-1.0, at_least=-1000, at_most=1000)
  null_offset: float = fields.number(-10.0, at_least=-1000, at_most=1000)

  def check(self, num_experts: int) -> None:
    choices = self.num_logits(num_experts)
    if not 1 <= self.k <= choices:
      raise errors.InputError(
        f'router.k={self.k}, but tc_moe has {choices} choices with '
        f'{num_experts} experts; use 1 to {choices}'
      )
    scores.check_gates(
      self.k == 1 and self.num_null == 0,
      num_experts,
      'router.k=1 with router.num_null=0',
      'set router.k=2, or router.num_null=1, or more',
    )

  def num_logits(self, num_experts: int) -> int:
    return 2 * num_experts + self.num_null

  def expert_of_logit(self, num_experts: int) -> np.ndarray:
    return np.concatenate([
      np.arange(num_experts),
      np.arange(num_experts),
      np.full(self.num_null, -1),
    ])

  @property
  def expert_needs(self) -> ExpertNeeds:
    """K choices: an expert gives two, and null ones are choices too."""
    return ExpertNeeds(max(1, -(-(self.k - self.num_null) // 2)))

  @property
  def experts_per_token(self) -> float:
    """k, an upper bound: null choices and merged signs compute nothing."""
    return self.k

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    num_experts = (inputs.logits_TE.shape[1] - self.num_null) // 2
    offset_C = np.repeat(
      np.array([0.0, self.negative_offset, self.null_offset], np.float32),
      [num_experts, num_experts, self.num_null],
    )
    prob_TC = jax.nn.softmax(inputs.logits_TE + offset_C, axis=-1)
    bias_TE = inputs.biased(jnp.zeros_like(prob_TC[:, :num_experts]))
    null_TN = prob_TC[:, 2 * num_experts :]
    bias_TC = jnp.concatenate(
      [bias_TE, bias_TE, jnp.zeros_like(null_TN)], axis=1
    )
    _, choice_TK = jax.lax.top_k(
      jax.lax.stop_gradient(prob_TC) + bias_TC, self.k
    )
    expert_TK, weight_TK = self.weigh(prob_TC, choice_TK, num_experts)

    folded_TE = prob_TC[:, : 2 * num_experts].reshape(-1, 2, num_experts).sum(1)
    null_T = null_TN.sum(axis=1)
    # `shares` stays finite where all probability is on the null choices.
    prob_TE = any_number.shares(folded_TE)
    unsigned_TK = jnp.where(
      choice_TK < 2 * num_experts, choice_TK % num_experts, num_experts
    )
    copies_TE = jnp.sum(
      unsigned_TK[..., None] == jnp.arange(num_experts),
      axis=1,
      dtype=jnp.float32,
    )
    return contract.token_choice(
      inputs,
      expert_TK,
      weight_TK,
      prob_TE,
      {'folded_TE': folded_TE, 'null_T': null_T, 'copies_TE': copies_TE},
    )

  def weigh(
    self, prob_TC: jax.Array, choice_TK: jax.Array, num_experts: int
  ) -> tuple[jax.Array, jax.Array]:
    """expert_TK and weight_TK: experts and signed weights, both signs merged.

    A null choice, and the second sign of an expert, become "nowhere": expert E
    with weight 0.

    Args:
      prob_TC: probabilities of the C = 2 E + N choices.
      choice_TK: numbers of the chosen choices, 0 to C - 1.
      num_experts: E.
    """
    real_TK = choice_TK < 2 * num_experts
    gate_TK = jnp.take_along_axis(prob_TC, choice_TK, axis=1)
    null_T1 = prob_TC[:, 2 * num_experts :].sum(axis=1, keepdims=True)
    kept_TK = jnp.where(real_TK, gate_TK, 0.0)
    denominator_T1 = jnp.maximum(
      kept_TK.sum(axis=1, keepdims=True) + null_T1, scores.LEAST_SUM
    )
    sign_TK = jnp.where(choice_TK < num_experts, 1.0, -1.0)
    signed_TK = sign_TK * kept_TK / denominator_T1

    expert_TK = jnp.where(real_TK, choice_TK % num_experts, num_experts)
    same_TKK = expert_TK[:, :, None] == expert_TK[:, None, :]
    first_TK = jnp.argmax(same_TKK, axis=2) == np.arange(self.k)
    sent_TK = first_TK & real_TK
    merged_TK = jnp.einsum(
      'TKJ,TJ->TK', same_TKK.astype(jnp.float32), signed_TK
    )
    return (
      jnp.where(sent_TK, expert_TK, num_experts),
      jnp.where(sent_TK, merged_TK, 0.0),
    )
