"""The config of one mixture-of-experts feed-forward."""

import dataclasses
import functools

import jax
import numpy as np

from moejax.core import errors, fields, resume, table
from moejax.moe import balance as balances
from moejax.moe import contract, uneven
from moejax.moe.balance.base import Balance
from moejax.moe.compute.grouped_matmuls import GROUPED_MATMULS
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.expert_parallel.base import ExpertParallel
from moejax.moe.experts import EXPERTS, Experts, SwiGLU
from moejax.moe.experts.shared import SharedExperts
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS, Linear
from moejax.moe.scorers.base import Scorer


@dataclasses.dataclass(frozen=True)
class MoEConfig(fields.Checked):
  """Router x dispatcher x expert parallelism x experts x balance.

  Attributes:
    num_experts: routed experts; 0 means that no layer has experts.
    experts_by_layer: number of experts of each layer with experts, if they
      differ: every layer then has `num_experts` places, of which these are in
      use, see `moe.uneven`.
    expert_width: hidden width of one expert.
    latent_width: dimensions in which routed experts work, between a matrix
      before and one behind them (LatentMoE, arXiv 2601.18089); see `latent`.
    low_rank: rank of a product of two matrices that is added to each matrix of
      the routed experts (MC-SMoE, arXiv 2310.01334, section 3.2); see
      `low_rank`.
    num_shared: shared experts, which every token passes with weight 1
      (DeepSeekMoE, arXiv 2401.06066, section 3.2). They are computed as one
      expert of num_shared times the width, which is the same sum.
    shared: a gate and a width for the shared experts.
    scorer: an entry of SCORERS: token vectors to logits.
    router: an entry of ROUTERS: logits to assignments.
    dispatcher: an entry of DISPATCHERS: tokens to rows grouped by expert.
    experts: an entry of EXPERTS: the kind of experts.
    expert_parallel: how rows and experts meet over the mesh's `expert` axis;
      without effect on a mesh whose `expert` axis is 1.
    balance: balance losses and bias rules by name, any number of them.
    zero_computation: experts without computation, numbered behind the routed
      experts.
    gating_residual: adds to the logits a learned matrix times the logits of
      the layer before (MoE++, arXiv 2410.07348, equation 6).
    grouped_matmul: how experts are computed, see
      `moe.compute.implementations`; auto takes one that suits the machine.
  """

  num_experts: int = fields.number(
    0, at_least=0, at_most=10**6, note='0: no layer has experts'
  )
  experts_by_layer: tuple[int, ...] = fields.number(
    (), at_least=1, note='(): num_experts in every layer'
  )
  expert_width: int = fields.number(128, at_least=1)
  latent_width: int = fields.number(
    0, at_least=0, note="0: experts work at the model's width"
  )
  low_rank: int = fields.number(0, at_least=0, note='0: no product')
  num_shared: int = fields.number(0, at_least=0, at_most=10**6)
  shared: SharedExperts = SharedExperts()
  scorer: Scorer = fields.choice(SCORERS, Linear())
  router: contract.Router = fields.choice(ROUTERS, ROUTERS['top_k']())
  dispatcher: contract.Dispatcher = fields.choice(
    DISPATCHERS, DISPATCHERS['dropless']()
  )
  expert_parallel: ExpertParallel = resume.key(
    resume.ROUNDING,
    fields.choice(EXPERT_PARALLEL, EXPERT_PARALLEL['all_to_all']()),
  )
  experts: Experts = fields.choice(EXPERTS, SwiGLU())
  balance: tuple[Balance, ...] = fields.choices(
    balances.BALANCE, (balances.BALANCE['expert_level'](),)
  )
  zero_computation: ZeroComputation = ZeroComputation()
  gating_residual: bool = False
  grouped_matmul: str = resume.key(
    resume.ROUNDING,
    fields.named(('auto', 'fused', 'fused_megablox', *GROUPED_MATMULS), 'auto'),
  )

  @property
  def shared_width(self) -> int:
    """Hidden width of all shared experts together."""
    return self.shared.width or self.num_shared * self.expert_width

  @property
  def num_choices(self) -> int:
    """E of the router: routed experts and experts without computation."""
    return self.num_experts + self.zero_computation.num

  @property
  def used_choices(self) -> np.ndarray | None:
    """Which choices each layer uses, bool [N, E]; None: all."""
    if not self.experts_by_layer:
      return None
    return uneven.in_use(
      self.experts_by_layer,
      self.num_experts,
      self.router.expert_needs.num_groups,
      self.zero_computation.num,
    )

  @property
  def num_logits(self) -> int:
    """Number of scores per token that the router reads."""
    return self.router.num_logits(self.num_choices)

  @property
  def reads_responses(self) -> bool:
    """Whether a balance part reads experts' responses to the router's rows."""
    return any(part.reads_responses for part in self.balance)

  @property
  def experts_per_token(self) -> float:
    """Average number of experts that compute a token, at perfect balance."""
    tau = getattr(self.dispatcher, 'tau', 1.0)
    share = self.zero_computation.share(self.num_experts, tau)
    return self.router.experts_per_token * share

  def used_share(self, row_length: int) -> float:
    """Share of the experts that compute a token, on average; in [0, 1]."""
    del row_length
    return self.experts_per_token / self.num_experts

  def check(self) -> None:
    """Raises InputError if parts of the config do not fit together.

    Messages begin with the key below `model.moe`, such as `router.k`.
    """
    if self.shared.width and not self.num_shared:
      raise errors.InputError(
        f'shared.width={self.shared.width} must be 0 where num_shared=0'
      )
    if self.scorer.reads_experts and self.num_logits != self.num_experts:
      raise errors.InputError(
        f'scorer={table.name_of(SCORERS, self.scorer)} scores the '
        f'{self.num_experts} experts, but the router wants {self.num_logits} '
        'scores; use another scorer, or a router and zero_computation without '
        'more choices'
      )
    if self.scorer.reads_experts and self.latent_width:
      raise errors.InputError(
        f'scorer={table.name_of(SCORERS, self.scorer)} multiplies tokens with '
        "the experts' weights, which do not have the model's width with "
        f'latent_width={self.latent_width}; set latent_width=0'
      )
    self.router.check(self.num_choices)
    if self.experts_by_layer:
      self._check_uneven()
    self.dispatcher.check(self.num_experts, self.num_choices)
    for part in self.balance:
      name = table.name_of(balances.BALANCE, part)
      try:
        part.check(self.num_choices)
      except errors.InputError as error:
        raise errors.InputError(f'balance.{name}.{error}') from None
      if part.reads_responses and not self._has_responses:
        raise errors.InputError(
          f'balance.{name} needs a row of the router and a gate matrix of the '
          "model's width for each expert: set scorer=linear, gated experts, "
          'latent_width=0 and a router that scores the experts alone'
        )
      zero = getattr(part, 'num_zero', self.zero_computation.num)
      if zero != self.zero_computation.num:
        raise errors.InputError(
          f'balance.{name}.num_zero={zero}, but zero_computation has '
          f'{self.zero_computation.num}: they must be the same'
        )

  def check_used(self) -> None:
    """Raises InputError for a balance part that could not do its work.

    Only new runs are checked. Messages are as those of `check`.
    """
    for part in self.balance:
      name = table.name_of(balances.BALANCE, part)
      state = jax.eval_shape(functools.partial(part.initial_state, 1))
      has_bias = state is not None and state.selection_bias_E is not None
      if has_bias and not self.router.follows_selection_bias:
        router = table.name_of(ROUTERS, self.router)
        raise errors.InputError(
          f'balance.{name} moves a selection bias, by which router={router} '
          f'sends no expert more tokens: set model.moe.balance.{name}=off, or '
          'another router'
        )
      try:
        part.check_router(self.router)
      except errors.InputError as error:
        raise errors.InputError(f'balance.{name}.{error}') from None

  def _check_uneven(self) -> None:
    """Raises InputError if layers cannot have their numbers of experts."""
    if not self.router.fits_uneven_layers:
      router = table.name_of(ROUTERS, self.router)
      raise errors.InputError(
        f'router={router} cannot leave places without an expert out, as '
        'experts_by_layer asks: keep the same number of experts in every layer'
      )
    needs = self.router.expert_needs
    smallest = max(
      1,
      needs.at_least - self.zero_computation.num,
      needs.num_groups * needs.per_group,
    )
    for layer, num in enumerate(self.experts_by_layer):
      if not smallest <= num <= self.num_experts or num % needs.num_groups:
        router = table.name_of(ROUTERS, self.router)
        groups = needs.num_groups
        several = f', a multiple of {groups} groups' if groups > 1 else ''
        raise errors.InputError(
          f'experts_by_layer has {num} for layer {layer}, but router={router} '
          f'and num_experts={self.num_experts} want {smallest} to '
          f'{self.num_experts}{several}'
        )
    for part in self.balance:
      if part.needs_equal_layers:
        raise errors.InputError(
          f'balance.{table.name_of(balances.BALANCE, part)} wants the same '
          'number of experts in every layer, but experts_by_layer has '
          'different ones; set it to off'
        )

  @property
  def _has_responses(self) -> bool:
    """Whether each expert has a row of the router and a gate matrix."""
    fits = isinstance(self.scorer, Linear) and not self.latent_width
    gated = getattr(self.experts, 'gated', False)
    return fits and gated and self.num_logits == self.num_experts
