"""The router's logits over a temperature: LibMoE's Table 9."""

import dataclasses

from moejax.analysis.interventions import base, wrapped
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.routers import top_p


@dataclasses.dataclass(frozen=True)
class Tempered(wrapped.Wrapped):
  """The router inside, with logits / tau."""

  tau: float = 1.0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    if self.tau != 1:
      logits_TE = inputs.logits_TE / self.tau
      inputs = dataclasses.replace(inputs, logits_TE=logits_TE)
    return self.router(inputs)


class Temperature(base.Intervention):
  """Divides the router's logits by tau: flatter above 1, sharper below.

  LibMoE (arXiv 2411.00918, Table 9) has 10 and 0.1. Of a softmax without
  selection biases the choice stays the same and the weights change; with biases
  the choice may change too. 1 changes nothing.

  Example, K=1, logits [0, -ln 4], tau=2: weights [2/3, 1/3] in place of
  [4/5, 1/5].
  """

  summary = "the router's logits divided by a temperature"
  value = 'temperature, above 0'
  wraps = (*base.RANKED, top_p.TopP)
  usual_values = ('0.1', '1', '10')
  neutral_value = '1'

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    tau = float(base.number(value, 'a temperature such as 0.1'))
    if not 1e-6 <= tau <= 1e6:
      raise errors.InputError('the temperature must be from 1e-6 to 1e6')
    self.check_router(config)
    router = Tempered(config.moe.router, layers, tau)
    return wrapped.in_model(config, router)
