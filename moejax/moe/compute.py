"""From tokens and a routing to the experts' output: in stages, or fused.

Stages works for every dispatcher and every kind of expert. Fused does the same
in one loop for the case that matters most on CPU. Which one, and which grouped
matmul the stages use, is `moe.grouped_matmul` in a config:

  auto     fused on CPU where it applies, else what `grouped_matmul` picks
  fused    one loop; needs the dropless dispatcher and SwiGLU experts
  <name>   stages with that entry of GROUPED_MATMULS
"""

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax

from moejax.core import errors
from moejax.moe import (
  contract,
  experts,
  fused_swiglu,
  grouped_matmul,
  permute,
)
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import dropless

FUSED, AUTO = 'fused', 'auto'


@flax.struct.dataclass
class Output:
  """What the routed experts made of the tokens.

  Attributes:
    out_TD: the weighted sum of each token's experts.
    sent_A: bool, which assignments were computed; the rest was dropped, or
      sent nowhere.
  """

  out_TD: jax.Array
  sent_A: jax.Array


class Compute(Protocol):
  """Routed experts over local tokens."""

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
  ) -> Output: ...


@dataclasses.dataclass(frozen=True)
class Stages:
  """Dispatch, experts, combine, one after the other."""

  dispatcher: contract.Dispatcher
  experts: experts.SwiGLU
  multiply: Any

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
  ) -> Output:
    x_RD, size_E, note = self.dispatcher.dispatch(
      x_TD, routing, routing.prob_TE.shape[1], self.multiply.row_multiple
    )
    y_RD = self.experts(weights, x_RD, size_E, self.multiply)
    out_TD = self.dispatcher.combine(y_RD, routing, note, x_TD.shape[0])
    return Output(out_TD, note.row_A < x_RD.shape[0])


@dataclasses.dataclass(frozen=True)
class Fused:
  """The same for dropless SwiGLU experts, in one loop over blocks of rows."""

  loop: fused_swiglu.FusedSwiglu = fused_swiglu.FusedSwiglu()

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
  ) -> Output:
    num_experts, width = weights['w_in_ED2F'].shape[:2]
    grouping = permute.group(
      routing.expert_A, num_experts, self.loop.row_multiple
    )
    out_TD = self.loop(
      x_TD,
      routing.weight_A,
      routing.token_A,
      grouping,
      weights['w_in_ED2F'].reshape(num_experts, width, -1),
      weights['w_out_EFD'],
    )
    return Output(out_TD, routing.expert_A < num_experts)


def choose(config: MoEConfig, platform: str) -> Compute:
  """How a config's routed experts are computed on a platform.

  Raises:
    InputError: the config asks for what does not fit its dispatcher.
  """
  name = config.grouped_matmul
  fits = isinstance(config.dispatcher, dropless.Dropless) and isinstance(
    config.experts, experts.SwiGLU
  )
  if name == FUSED and not fits:
    raise errors.InputError(
      'moe.grouped_matmul=fused needs the dropless dispatcher and SwiGLU '
      'experts; use auto'
    )
  if name == FUSED or (name == AUTO and fits and platform == 'cpu'):
    return Fused()
  equal = config.dispatcher.equal_groups
  if name == AUTO and equal:
    name = 'batched'
  if name == 'batched' and not equal:
    raise errors.InputError(
      'moe.grouped_matmul=batched needs a dispatcher that gives every expert '
      'the same number of rows, such as capacity; use auto'
    )
  multiply = grouped_matmul.choose(name, platform)
  return Stages(config.dispatcher, config.experts, multiply)
