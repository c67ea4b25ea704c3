"""The importance loss of hierarchical gates: groups, and experts in them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from moejax.moe import contract
from moejax.moe.balance import base, counts, variation


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
    coefficient: 0.01 in the released code.
    unbiased: whether the variance divides by the number minus one, as in the
      released code.
  """

  coefficient: float = base.loss_weight(0.01)
  unbiased: bool = False

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    outer_TG = counts.extra(routing, 'outer_TG')
    inner_TE = counts.extra(routing, 'inner_TE')
    member_E = _groups(outer_TG.shape[1], inner_TE.shape[1])
    inner_TE = jnp.where(outer_TG[:, member_E] > 0, inner_TE, 0.0)
    return {
      'outer_G': counts.over_tokens(inputs, outer_TG),
      'inner_E': counts.over_tokens(inputs, inner_TE),
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
  """The group of each expert, [E]."""
  return np.arange(num_experts) * num_groups // num_experts
