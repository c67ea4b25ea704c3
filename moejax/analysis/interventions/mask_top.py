"""The experts of the largest probabilities masked: DeepSeekMoE's Figure 4."""

import dataclasses
import fractions
import math

import jax

from moejax.analysis.interventions import base, wrapped
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class MaskedTop(wrapped.Wrapped):
  """Each token chooses among all but its `num` most probable experts."""

  num: int = 0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    if not self.num:
      return self.router(inputs)
    prob_TE = jax.lax.stop_gradient(self.router(inputs).prob_TE)
    out_TE = wrapped.ranks(prob_TE) < self.num
    return wrapped.without(self.router, inputs, out_TE)


class MaskTop(base.Intervention):
  """Masks a share of the experts, for each token those it prefers.

  DeepSeekMoE (arXiv 2401.06066, section 4.5, Figure 4): the experts with the
  highest routing probability are masked, and the top K are taken from the rest.
  The more the loss rises, the less redundant are the experts. A value r masks
  r * E experts, rounded to the nearest whole number (halves up); E counts
  experts without computation too.

  The paper does not say whether the probabilities of the rest are divided by
  their sum. Here a weight stays what the router gives to the choice: with a
  softmax that is not renormalised, as in DeepSeekMoE, the probability among all
  experts. Experts are ranked by probability, without selection biases.

  Example, K=1, probabilities [.5 .3 .2], r=1/3: expert 1 with weight .3.
  """

  summary = 'the most probable experts masked, then the top K of the rest'
  value = 'share of the experts to mask, from 0 to 1, such as 1/16'
  wraps = base.RANKED
  usual_values = ('0', '1/16', '1/8', '3/16', '1/4')
  neutral_value = '0'

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    ratio = base.number(value, 'a share such as 1/16')
    if not 0 <= ratio <= 1:
      raise errors.InputError('the share must be from 0 to 1')
    self.check_router(config)
    router, total = config.moe.router, config.moe.num_choices
    num = math.floor(ratio * total + fractions.Fraction(1, 2))
    k = base.experts_per_token(router)
    if num + k > total:
      raise errors.InputError(
        f'masks {num} of {total} experts, but a token needs {k} of the rest; '
        f'use at most {total - k}/{total}'
      )
    return wrapped.in_model(config, MaskedTop(router, layers, num))
