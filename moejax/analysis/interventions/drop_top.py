"""First choices replaced by the next ranks: LibMoE's DropTop."""

import dataclasses

import jax.numpy as jnp

from moejax.analysis.interventions import base, wrapped
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class DroppedTop(wrapped.Wrapped):
  """Each token uses its choices n+1 to n+K in place of 1 to K."""

  num: int = 0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    routing = self.router(inputs)
    return self.replaced(inputs, routing) if self.num else routing

  def replaced(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> contract.Routing:
    """The routing without the first `num` choices.

    Args:
      inputs: the router's.
      routing: what the router gives.
    """
    num_experts = routing.prob_TE.shape[1]
    expert_TK, _ = wrapped.by_token(routing)
    first_TnE = expert_TK[:, : self.num, None] == jnp.arange(num_experts)
    return wrapped.without(self.router, inputs, first_TnE.any(axis=1))


@dataclasses.dataclass(frozen=True)
class SwappedTop(DroppedTop):
  """As `DroppedTop`; each replacement has the weight of what it replaces."""

  def replaced(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> contract.Routing:
    next_TK, _ = wrapped.by_token(super().replaced(inputs, routing))
    # Choices n+1 ... n+K; the last n of them take the first n places.
    expert_TK = jnp.roll(next_TK, self.num, axis=1)
    return dataclasses.replace(routing, expert_A=expert_TK.T.reshape(-1))


class DropTop(base.Intervention):
  """Replaces the first n choices of each token by the choices K+1 to K+n.

  LibMoE's DropTop1 and DropTop1&2 (arXiv 2411.00918), whose code is not
  published. The router chooses anew without its first n choices, in the order
  of its own scores, selection biases included. The weight of a replacement is
  its own, as the router gives it to the new choice: divided by the new sum if
  the router renormalises, else its score. `swap_top` keeps the weights instead.

  Example, K=2, n=1, probabilities [.5 .3 .2], renormalised: experts 1 and 2
  with weights .6 and .4.
  """

  summary = 'the first n choices replaced by the next n, with their own weights'
  value = 'number of choices to replace, from 0 to K'
  wraps = base.RANKED
  usual_values = ('0', '1', '2')
  neutral_value = '0'
  router = DroppedTop

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    self.check_router(config)
    router, total = config.moe.router, config.moe.num_choices
    k = base.experts_per_token(router)
    num = base.whole(value, 'the number of choices to replace', 0, k)
    if num + k > total:
      raise errors.InputError(
        f'takes choices {num + 1} to {num + k} of each token, but there are '
        f'{total} experts; use at most {total - k}'
      )
    return wrapped.in_model(config, self.router(router, layers, num))


class SwapTop(DropTop):
  """As `DropTop`, with the weights of the choices that are replaced.

  Choice K+1 gets the weight of the first choice, K+2 that of the second, and
  the others keep theirs: only the networks change, not the gates.

  Example, K=2, n=1, probabilities [.5 .3 .2], renormalised: experts 2 and 1
  with weights .625 and .375.
  """

  summary = 'the first n choices replaced by the next n, with equal weights'
  but = base.GROUPED
  router = SwappedTop
