"""Sinkhorn routing: the largest shares of a balanced transport plan."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, transport


@dataclasses.dataclass(frozen=True)
class Sinkhorn(fixed_k.FixedK):
  """S-BASE (arXiv 2202.01169), in the form of Megatron-LM's `sinkhorn` router.

  Training: a token goes to the k experts with the largest shares of it in the
  balanced transport plan of the logits; the plan has no gradient. Evaluation:
  the k largest logits. Weights are sigmoid(logit) for k = 1, and for larger k
  the softmax over all experts, not renormalised. The router needs no balance
  loss.

  Where we differ: tokens compete within one sequence, where Megatron takes a
  micro-batch of a device, so the result depends on neither mesh nor
  micro-batches; padding has no mass; factors are logarithms, without the 1e-8
  that Megatron adds to each divisor; and the iterations have an upper bound.

  In training the plan looks at the whole sequence, later tokens included;
  evaluation is causal.

  Attributes:
    tolerance: iterations stop when the columns' factors change by no more than
      this on average.
    iterations: the largest number of iterations; a few suffice.
  """

  tokens_compete: ClassVar[bool] = True
  replays: ClassVar[bool] = True

  k: int = fields.number(1, at_least=1)
  tolerance: float = fields.number(1e-4, at_least=0, at_most=1)
  iterations: int = fields.number(100, at_least=1, at_most=10**6)

  @property
  def chooses_by(self) -> str:
    return 'logits'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    logits_TE = inputs.logits_TE
    choose_TE = inputs.biased(logits_TE)
    if inputs.training:
      choose_TE = self._log_plan(inputs, choose_TE)
    _, expert_TK = jax.lax.top_k(choose_TE, self.k)
    expert_TK, _ = replay.choice(inputs.replayed, expert_TK)
    if self.k == 1:
      score_TE = jax.nn.sigmoid(logits_TE)
      # Sigmoids over their sum, also where all of them vanish.
      prob_TE = jax.nn.softmax(jax.nn.log_sigmoid(logits_TE), axis=-1)
    else:
      score_TE = prob_TE = jax.nn.softmax(logits_TE, axis=-1)
    weight_TK = jnp.take_along_axis(score_TE, expert_TK, axis=1)
    return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)

  def _log_plan(self, inputs, choose_TE):
    plan = lambda score_SE, valid_S: transport.sinkhorn(
      score_SE, valid_S, self.tolerance, self.iterations
    )[0]
    plan_GSE = jax.vmap(plan)(
      transport.by_sequence(inputs, choose_TE),
      transport.by_sequence(inputs, inputs.valid_T),
    )
    return plan_GSE.reshape(choose_TE.shape)
