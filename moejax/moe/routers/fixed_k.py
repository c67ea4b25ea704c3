"""The base of routers that send every token to k experts."""

import dataclasses
from typing import Self

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import scores


@dataclasses.dataclass(frozen=True)
class FixedK(contract.Router):
  """Every token has k experts.

  A subclass with another default than 2 declares the field `k` again.

  Attributes:
    k: experts per token.
  """

  k: int = fields.number(2, at_least=1)

  def check(self, num_experts: int) -> None:
    scores.check_k(self.k, num_experts)

  def shrunk(self, num_experts: int) -> Self:
    return dataclasses.replace(self, k=min(self.k, 2, num_experts))

  @property
  def experts_per_token(self) -> float:
    return self.k

  @property
  def expert_needs(self) -> ExpertNeeds:
    return ExpertNeeds(self.k)
