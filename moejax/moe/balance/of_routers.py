"""Losses that belong to one router, which reports what they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, load, variation


def _with_null(sums: dict[str, jax.Array]) -> jax.Array:
  f_E, p_E = load.f_and_p(sums)
  return jnp.sum(f_E * p_E)


def _without_null(sums: dict[str, jax.Array]) -> jax.Array:
  count_E = sums['count_E']
  share_E = count_E / jnp.maximum(jnp.sum(count_E), 1)
  p_E = sums['share_E'] / jnp.maximum(sums['tokens'], 1)
  return jnp.sum(share_E * p_E)


# What `TernaryChoice.alpha` multiplies.
FORMS = {'with_null': _with_null, 'without_null': _without_null}


@dataclasses.dataclass(frozen=True)
class TernaryChoice(base.Balance):
  """TC-MoE's losses: alpha * sum_i f_i (P_i+ + P_i-) - reward * P_null.

  Yan et al. 2025 (TC-MoE, ICLR). The counts of the positive and the negative
  copy of an expert are added, over n, all choices but null ones. A token that
  chooses both copies of i counts twice, though the expert computes it once.
  P_null is the mean probability of all null choices.

  The authors' code has no loss; alpha and reward are those of their released
  model. So there are two forms, both over the global batch:

    with_null     f_i = E / n * (choices of either copy), and P_i+ and P_i- are
                  mean probabilities among all choices: balanced it is alpha
                  (1 - P_null). So mass on null lowers it, as a reward would.
    without_null  LibMoE's: f_i has no factor E, and P_i+ and P_i- are mean
                  probabilities among the choices that are not null: balanced
                  it is alpha / E, whatever the mass on null. Its code adds the
                  counts of all sequences of a batch to each of them, so its
                  coefficient is ours over the number of sequences.

  The router reports `folded_TE`, the P_i+ + P_i- of a token, `null_T`, and
  `copies_TE`, how many copies of an expert a token chooses; its probabilities
  are those without null.

  Attributes:
    alpha: of the balance loss.
    reward: for choosing nothing; LibMoE has 1e-5.
    form: see above.
  """

  alpha: float = base.loss_weight(0.01)
  reward: float = base.loss_weight(0.0)
  form: str = fields.named(FORMS, 'with_null')

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    folded_TE = counts.extra(routing, 'folded_TE', 'tc_moe')
    null_T = counts.extra(routing, 'null_T', 'tc_moe')
    copies_TE = counts.extra(routing, 'copies_TE', 'tc_moe')
    return {
      'count_E': counts.over_tokens(given, copies_TE),
      'prob_E': counts.over_tokens(given, folded_TE),
      'share_E': counts.over_tokens(given, routing.prob_TE),
      'null': counts.over_tokens(given, null_T),
      'tokens': counts.tokens(given),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    null = sums['null'] / jnp.maximum(sums['tokens'], 1)
    return self.alpha * FORMS[self.form](sums) - self.reward * null


@dataclasses.dataclass(frozen=True)
class SelectorEntropy(base.Balance):
  """DSelect-k's losses: its selectors' entropy, and codes that name no expert.

  Hazimeh et al. 2021 (arXiv 2106.03760, section 3): the entropy of each of the
  k single-expert selectors, which pushes them to one expert each, and, where E
  is no power of two, 1 / (mass on real experts), which keeps the selectors
  there. The router reports both per token: `selector_entropy_T` and
  `unreachable_T`.

  The released code sums the entropy over the batch, times 1e-6 by default. Here
  it is the mean, so that it does not grow with the batch: the coefficient to
  compare is theirs times the tokens of their batch. The default is our own.

  Attributes:
    coefficient: of the entropy.
    unreachable: of the other; 1 in the released code.
  """

  coefficient: float = base.loss_weight(0.001)
  unreachable: float = base.loss_weight(1.0)

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    entropy_T = counts.extra(routing, 'selector_entropy_T', 'dselect_entropy')
    unreachable_T = counts.extra(routing, 'unreachable_T', 'dselect_entropy')
    return {
      'entropy': counts.over_tokens(given, entropy_T),
      'unreachable': counts.over_tokens(given, unreachable_T),
      'tokens': counts.tokens(given),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    found = (
      self.coefficient * sums['entropy']
      + self.unreachable * sums['unreachable']
    )
    return found / jnp.maximum(sums['tokens'], 1)


@dataclasses.dataclass(frozen=True)
class Stable(base.Balance):
  """StableMoE's losses of its first stage: balance and distillation.

  Dai et al. 2022 (arXiv 2204.08396, section 3.1):

    balance       sum_i (n_i - n) / n * sum over the tokens of i of s_it
    distillation  cross-entropy of the small router to what was chosen

  n_i are the assignments of expert i, n their mean, s_it the sigmoid score of
  the expert that the token was sent to. Balanced the first is 0.

  Both are sums over tokens in the released code, beside a cross-entropy of text
  that is a sum too; here that is a mean over tokens, and so are these. The
  router reports `stable_TE` (s_it at the chosen expert, 0 elsewhere) and
  `distill_T`, and zeros in its second stage.

  Attributes:
    coefficient: of the balance.
    distillation: of the other.
  """

  coefficient: float = base.loss_weight(0.3)
  distillation: float = base.loss_weight(0.3)

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    score_TE = counts.extra(routing, 'stable_TE', 'stable_moe')
    distill_T = counts.extra(routing, 'distill_T', 'stable_moe')
    return {
      'count_E': counts.count(routing),
      'score_E': counts.over_tokens(given, score_TE),
      'distill': counts.over_tokens(given, distill_T),
      'tokens': counts.tokens(given),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    count_E = sums['count_E']
    mean = jnp.mean(count_E)
    excess_E = (count_E - mean) / jnp.where(mean > 0, mean, 1.0)
    found = (
      self.coefficient * jnp.sum(excess_E * sums['score_E'])
      + self.distillation * sums['distill']
    )
    return found / jnp.maximum(sums['tokens'], 1)


@dataclasses.dataclass(frozen=True)
class TwoLevelImportance(base.Balance):
  """HMoE's balance: importance of groups, and of experts within each group.

  In the released code of HMoE (arXiv 2410.02935), and of hierarchical gates
  since Shazeer et al. 2017: coefficient * (CV(groups)^2 + mean over groups of
  CV(experts of the group)^2), with the importance of a group the sum of its
  gates, and that of an expert the sum of its gates within the group over the
  tokens that go there. 0 when balanced. Load, which without noise has no
  gradient, is left out.

  The router reports `outer_TG`, 0 for groups that a token is not sent to, and
  `inner_TE`; expert e is in group e * G // E.

  Attributes:
    coefficient: the released code's.
    unbiased: variance over one less, as the released code has it.
  """

  coefficient: float = base.loss_weight(0.01)
  unbiased: bool = False

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    outer_TG = counts.extra(routing, 'outer_TG', 'two_level')
    inner_TE = counts.extra(routing, 'inner_TE', 'two_level')
    member_E = _groups(outer_TG.shape[1], inner_TE.shape[1])
    inner_TE = jnp.where(outer_TG[:, member_E] > 0, inner_TE, 0.0)
    return {
      'outer_G': counts.over_tokens(given, outer_TG),
      'inner_E': counts.over_tokens(given, inner_TE),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    outer_G, inner_E = sums['outer_G'], sums['inner_E']
    member_E = _groups(len(outer_G), len(inner_E))
    within = sum(
      variation.cv_squared(inner_E[member_E == g], unbiased=self.unbiased)
      for g in range(len(outer_G))
    )
    outer = variation.cv_squared(outer_G, unbiased=self.unbiased)
    return self.coefficient * (outer + within / len(outer_G))


def _groups(num_groups: int, num_experts: int) -> np.ndarray:
  return np.arange(num_experts) * num_groups // num_experts
