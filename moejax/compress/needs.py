"""What the router of a model needs of the experts that stay."""

from moejax.compress.choice import RouterNeeds
from moejax.core import errors, table
from moejax.model.config import ModelConfig
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS


def check_mergeable(config: ModelConfig) -> None:
  """Raises InputError if the experts of a model cannot be merged."""
  if config.moe.low_rank:
    raise errors.InputError(
      f'model.moe.low_rank={config.moe.low_rank}, but merging takes whole '
      'matrices: begin a run from this with model.moe.low_rank=0, and merge '
      'its experts'
    )
  if config.moe.experts_by_layer:
    raise errors.InputError(
      f'model.moe.experts_by_layer={config.moe.experts_by_layer}, but merging '
      'takes layers of equally many experts; merge those of the model that '
      'this one was made from, or remove experts'
    )


def router_needs(config: ModelConfig) -> RouterNeeds:
  """What every layer must keep if experts are removed.

  Experts of a router with groups are removed so that all groups of a layer that
  stay are of one size; `RouterNeeds.for_budget` makes a choice do so.

  Args:
    config: of the model.

  Raises:
    InputError: no expert of this model can be removed, and why.
  """
  moe = config.moe
  if not config.num_sparse:
    raise errors.InputError(
      'the model has no layer with experts, so there is none to remove'
    )
  if not config.is_routed:
    name = table.name_of(FEED_FORWARDS, config.feed_forward)
    raise errors.InputError(
      f'model.feed_forward={name} keeps all its experts: '
      f'{config.feed_forward.keeps_experts}'
    )
  name = table.name_of(ROUTERS, moe.router)
  if moe.router.keeps_experts:
    raise errors.InputError(
      f'router {name} keeps all its experts: {moe.router.keeps_experts}'
    )
  needs = moe.router.expert_needs
  if needs.num_groups > 1 and moe.zero_computation.num:
    raise errors.InputError(
      f'router {name} has groups, in which experts and choices without '
      'computation lie together: no expert can be removed from such groups'
    )
  if needs.num_groups > 1 and moe.num_experts % needs.num_groups:
    raise errors.InputError(
      f'router {name} has {needs.num_groups} groups of different sizes for '
      f'{moe.num_experts} experts, so no expert can be removed from them'
    )
  at_least = max(1, needs.at_least - moe.zero_computation.num)
  return RouterNeeds(
    at_least, needs.num_groups, needs.per_group, needs.least_groups
  )
