"""The config of one mixture-of-experts feed-forward."""

import dataclasses

from moejax.core import config, errors
from moejax.moe import balance as balances
from moejax.moe import contract
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.experts import EXPERTS, SwiGLU
from moejax.moe.grouped_matmul import GROUPED_MATMULS
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS, Linear


@dataclasses.dataclass(frozen=True)
class MoEConfig:
  """Router x dispatcher x experts x balance.

  Attributes:
    num_experts: routed experts; 0 means that no layer has experts.
    expert_width: hidden width of one expert.
    num_shared: shared experts, which every token passes with weight 1
      (DeepSeekMoE, arXiv 2401.06066, section 3.2). They are computed as one
      expert of num_shared times the width, which is the same sum.
    scorer, router, dispatcher, experts: one of each table.
    balance: balance losses by name, any number of them.
    grouped_matmul: how experts are computed, see `moe.compute`; auto goes by
      the machine.
  """

  num_experts: int = 0
  expert_width: int = 128
  num_shared: int = 0
  scorer: Linear = config.choice(SCORERS, Linear())
  router: contract.Router = config.choice(ROUTERS, ROUTERS['top_k']())
  dispatcher: contract.Dispatcher = config.choice(
    DISPATCHERS, DISPATCHERS['dropless']()
  )
  experts: SwiGLU = config.choice(EXPERTS, SwiGLU())
  balance: tuple[balances.BalanceLoss, ...] = config.choices(
    balances.BALANCE, (balances.ExpertLevel(),)
  )
  grouped_matmul: str = config.named(
    ('auto', 'fused', *GROUPED_MATMULS), 'auto'
  )

  def check(self) -> None:
    """Raises InputError if router or losses do not fit the experts."""
    if self.expert_width < 1 or self.num_shared < 0:
      raise errors.InputError(
        f'moe.expert_width={self.expert_width} must be at least 1 and '
        f'moe.num_shared={self.num_shared} at least 0'
      )
    self.router.check(self.num_experts)
    for part in self.balance:
      part.check(self.num_experts)
