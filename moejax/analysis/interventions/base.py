"""The contract of interventions, and their values as users write them."""

import fractions
import math
from collections.abc import Sequence
from typing import ClassVar

from moejax.core import errors, table
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import (
  ROUTERS,
  base_layer,
  dense_to_sparse,
  group_balanced,
  group_limited,
  gshard,
  noisy_top_k,
  sinkhorn,
  sparse_mixer,
  switch,
  top_k,
)

Layers = tuple[int, ...] | None
Routers = tuple[type[contract.Router], ...]

# In evaluation each token of these routers has the experts whose scores, plus a
# bias of the selection, are the largest.
RANKED: Routers = (
  base_layer.BaseLayer,
  dense_to_sparse.DenseToSparse,
  gshard.GShard,
  noisy_top_k.NoisyTopK,
  sinkhorn.Sinkhorn,
  sparse_mixer.SparseMixer,
  switch.Switch,
  top_k.TopK,
)
# Those of them that choose among groups of experts first.
GROUPED: Routers = (group_balanced.GroupBalanced, group_limited.GroupLimited)


class Intervention:
  """A change of how a trained model routes; the base of all interventions.

  A call gives the config of the changed model, which has the same parameters:

    changed = INTERVENTIONS['mask_top'](config, '1/8', layers=(0, 2))

  Attributes:
    summary: what it does, in one line.
    value: what its values are, as a noun phrase.
    wraps: classes of the routers that it can change; none stands for all.
    but: subclasses of those that it cannot change.
    usual_values: the values that the command takes if none are named. A class
      whose usual values depend on the model overrides `usual` instead.
    neutral_value: the value that changes nothing; None if there is none. A
      class where it depends on the model overrides `neutral` instead.
  """

  summary: ClassVar[str]
  value: ClassVar[str]
  wraps: ClassVar[Routers] = ()
  but: ClassVar[Routers] = ()
  usual_values: ClassVar[tuple[str, ...]] = ()
  neutral_value: ClassVar[str | None] = None

  def __call__(
    self, config: ModelConfig, value: str, layers: Layers = None
  ) -> ModelConfig:
    """The config of the changed model.

    Args:
      config: of the trained model.
      value: as a user writes it.
      layers: which layers to change, among those with experts, from 0
        (`layers_with_experts`); None for all.

    Raises:
      InputError: the value is not one of the intervention, or does not fit the
        model; or the model's router cannot be changed in this way. Messages do
        not name the intervention, which `apply` puts in front.
    """
    raise NotImplementedError

  def usual(self, config: ModelConfig) -> tuple[str, ...]:
    """The values that the command takes if none are named; maybe none.

    It takes those that fit the model.
    """
    del config
    return self.usual_values

  def neutral(self, config: ModelConfig) -> str | None:
    """The value that changes nothing, if there is one."""
    del config
    return self.neutral_value

  def fits(self, router: type[contract.Router]) -> bool:
    """Whether the intervention can change the routers of a class."""
    if not self.wraps:
      return True
    return issubclass(router, self.wraps) and not issubclass(router, self.but)

  def check_router(self, config: ModelConfig) -> None:
    """Raises InputError if the model has no router that it can change."""
    if not config.num_moe:
      kind = table.name_of(FEED_FORWARDS, config.feed_forward)
      raise errors.InputError(
        'the model has no layer with routed experts'
        if config.is_routed
        else f'feed_forward={kind} has no router; interventions are of models '
        'with feed_forward=routed'
      )
    router = config.moe.router
    if not self.fits(type(router)):
      able = [name for name, cls in ROUTERS.items() if self.fits(cls)]
      raise errors.InputError(
        f'the router {_name(router)} cannot be changed in this way; these can: '
        f'{", ".join(able)}'
      )


def _name(router: contract.Router) -> str:
  """The name of a router in a config."""
  names = [name for name, cls in ROUTERS.items() if cls is type(router)]
  return names[0] if names else f'with an intervention ({router})'


def layers_with_experts(config: ModelConfig) -> tuple[int, ...]:
  """The numbers in the model of the layers with routed experts, from 0."""
  kinds = enumerate(config.kinds)
  return tuple(n for n, kind in kinds if kind == 'moe' and config.is_routed)


def places(config: ModelConfig, layers: Sequence[int] | None) -> Layers:
  """The places of layers among those with experts, from their numbers.

  Example, layers 0 and 2 are dense and 1, 3 have experts: (1, 3) is (0, 1).

  Args:
    config: of the model.
    layers: numbers in the model, from 0; None for all layers.

  Raises:
    InputError: a layer does not exist or has no experts.
  """
  if layers is None:
    return None
  known = layers_with_experts(config)
  for layer in layers:
    if layer not in known:
      raise errors.InputError(
        f'--layers={layer}: the layers with experts are '
        f'{", ".join(map(str, known)) or "none"}'
      )
  return tuple(sorted({known.index(layer) for layer in layers}))


def number(text: str, kind: str) -> fractions.Fraction:
  """A number from text such as '1/16', '0.0625' or '3'.

  Args:
    text: what the user wrote.
    kind: what it must be, for the error.

  Raises:
    InputError: the text is no finite number.
  """
  try:
    return fractions.Fraction(text.strip())
  except (ValueError, ZeroDivisionError):
    raise errors.InputError(f'{text!r} is not {kind}') from None


def whole(text: str, kind: str, least: int, most: int) -> int:
  """A whole number within bounds.

  Raises:
    InputError: it is not whole, or out of bounds.
  """
  value = number(text, kind)
  if value.denominator != 1:
    raise errors.InputError(f'{text!r} is not {kind}')
  if not least <= value <= most:
    raise errors.InputError(
      f'{kind} must be from {least} to {most}'
      if least <= most
      else f'{kind} must be at least {least}, and this model has room for none'
    )
  return int(value)


def experts_per_token(router: contract.Router) -> int:
  """K, the largest number of experts of a token."""
  return math.ceil(router.experts_per_token)
