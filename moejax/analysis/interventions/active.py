"""Fewer or more active experts per token: DeepSeekMoE's Figure 5."""

import dataclasses
from typing import Any

from moejax.analysis.interventions import base, wrapped
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.routers import (
  group_balanced,
  noisy_top_k,
  sinkhorn,
  sparse_mixer,
  top_k,
)


@dataclasses.dataclass(frozen=True)
class OtherK(wrapped.Wrapped):
  """The router inside with another K."""

  k: int = 1

  @property
  def experts_per_token(self) -> float:
    return self.k

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    inner: Any = self.router
    return dataclasses.replace(inner, k=self.k)(inputs)


def with_k(
  config: ModelConfig, k: int, layers: base.Layers = None
) -> ModelConfig:
  """The config of the model with K experts per token.

  Raises:
    InputError: there are fewer experts, or the router has a rule against it.
  """
  inner: Any = config.moe.router
  total = config.moe.num_choices
  if not 1 <= k <= total:
    raise errors.InputError(
      f'{k} experts per token, but there are {total}; use 1 to {total}'
    )
  # The check of a single gate that is divided by itself is for training.
  if k > 1 or isinstance(inner, group_balanced.GroupBalanced):
    dataclasses.replace(inner, k=k).check(total)
  return wrapped.in_model(config, OtherK(inner, layers, k))


class Active(base.Intervention):
  """Changes K, the number of routed experts of each token.

  DeepSeekMoE (arXiv 2401.06066, section 4.5, Figure 5): 3 to 7 active routed
  experts of a model that was trained with 7. A router that renormalises divides
  by the sum over the new number. K as in training changes nothing.

  Example, probabilities [.5 .3 .2], K=2 with weights .5 and .3; the value 1:
  expert 0 with weight .5, or 1 if the router renormalises.
  """

  summary = 'another number of routed experts for each token'
  value = 'number of routed experts for each token, from 1'
  wraps = (
    noisy_top_k.NoisyTopK,
    sinkhorn.Sinkhorn,
    sparse_mixer.SparseMixer,
    top_k.TopK,
  )

  def usual(self, config: ModelConfig) -> tuple[str, ...]:
    k = base.experts_per_token(config.moe.router)
    return tuple(map(str, range(-(-k // 2), k + 1)))

  def neutral(self, config: ModelConfig) -> str | None:
    return str(base.experts_per_token(config.moe.router))

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    self.check_router(config)
    total = config.moe.num_choices
    k = base.whole(value, 'the number of experts per token', 1, total)
    return with_k(config, k, layers)
