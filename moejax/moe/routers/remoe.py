"""ReMoE: ReLU routing, to all experts whose logit is above zero."""

import dataclasses
from typing import ClassVar

import jax

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.routers import any_number, scores


@dataclasses.dataclass(frozen=True)
class ReMoE(contract.Router):
  """R = relu(logit); the experts with R > 0 are used, with weight R.

  ReMoE (arXiv 2412.14711): no top k and no softmax, so the gate is continuous
  and a token takes any number of experts. A loss on R with an adaptive weight,
  the balance part `adaptive_l1`, brings the average number to k; it reads R
  from `extra` (relu_TE). The first steps run almost dense, and the list of
  assignments always has T * E entries: see `any_number`.

  The paper has no probabilities; `prob_TE` is R over its sum, and 1 / E for a
  token that uses no expert. A selection bias can only take experts out: an
  expert is used if R > 0 and R + bias > 0.

  Attributes:
    k: experts per token on average once training is balanced: for counting
      FLOPs. It has no effect on routing; set the loss's k to the same.
  """

  follows_selection_bias: ClassVar[bool] = False
  replays: ClassVar[bool] = True

  k: float = fields.number(2.0, above=0, at_most=10**6)

  def check(self, num_experts: int) -> None:
    scores.check_k(self.k, num_experts)

  def shrunk(self, num_experts: int) -> 'ReMoE':
    return dataclasses.replace(self, k=min(self.k, 2.0, num_experts))

  @property
  def experts_per_token(self) -> float:
    return self.k

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    relu_TE = jax.nn.relu(inputs.logits_TE)
    used_TE = (relu_TE > 0) & (inputs.biased(relu_TE) > 0)
    return any_number.send(
      inputs,
      relu_TE,
      used_TE,
      any_number.shares(relu_TE),
      {'relu_TE': relu_TE},
    )
