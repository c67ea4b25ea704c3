"""The balance loss of TC-MoE, and its reward for choosing nothing."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, load


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
    alpha: coefficient of the balance loss.
    reward: coefficient of the reward for null choices; LibMoE has 1e-5.
    form: 'with_null' or 'without_null', see above.
  """

  alpha: float = base.loss_weight(0.01)
  reward: float = base.loss_weight(0.0)
  form: str = fields.named(FORMS, 'with_null')

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    folded_TE = counts.extra(routing, 'folded_TE')
    null_T = counts.extra(routing, 'null_T')
    copies_TE = counts.extra(routing, 'copies_TE')
    return {
      'count_E': counts.over_tokens(inputs, copies_TE),
      'prob_E': counts.over_tokens(inputs, folded_TE),
      'share_E': counts.over_tokens(inputs, routing.prob_TE),
      'null': counts.over_tokens(inputs, null_T),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    null = sums['null'] / jnp.maximum(sums['tokens'], 1)
    return self.alpha * FORMS[self.form](sums) - self.reward * null
