"""StableMoE: learn to route, then freeze a small student of the router."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract, replay
from moejax.moe.routers import scores
from moejax.moe.scorers import SCORERS
from moejax.moe.scorers.base import Scorer


@dataclasses.dataclass(frozen=True)
class StableMoE(contract.Router):
  """Greedy top 1 in two stages (arXiv 2204.08396, section 3, and its code).

  1. e = the expert of the largest score s_e = x . c_e; the `student`, a small
     router that sees token ids alone, is trained to predict it
  2. from step `stage_two_from` on e is the student's choice, which stays as it
     is: neither gradient nor momentum nor weight decay moves the student

  In evaluation e is the student's choice in both stages, as in the paper's
  code: evaluation measures the model of stage 2. While the student is not
  trained yet, that is a random choice by token id.

  In both the layer's output is a E_e(x) + (1 - a) x with a = sigmoid(s_e),
  which is how the centroids c learn. The paper's experts have a residual
  connection inside, E_e(x) = x + F_e(norm(x)), so the output is
  x + a F_e(norm(x)): in a block that adds its input anyway, an ordinary expert
  F_e with weight a. `interpolates` adds (1 - a) times the layer's own, already
  normalised input, for experts and blocks without a residual connection.

  The losses of stage 1 are in the balance part `stable_moe`, which reads from
  `extra`: stable_TE, sigmoid(s_e) at the chosen expert, and distill_T, the
  student's cross-entropy; both are zero in stage 2 and in evaluation. A
  selection bias, where there is one, acts in the training of stage 1, and so on
  what the student learns.

  In the paper's code an expert has room for a capacity factor times T / E
  tokens, 2 in its instructions, in evaluation as well; tokens over capacity
  pass unchanged. That is dispatcher `capacity` with factor 2 in a block that
  adds its input. In that code the router sees the block's input without
  normalisation, and experts normalise it themselves; here router and experts
  see the normalised input. In that code the experts' output matrix starts at
  zero; here it starts like other matrices.

  `prob_TE` is softmax(s); the paper does not use it.

  Attributes:
    student: the scorer of the small router; the paper's best is by word
      embedding. No other loss may train it.
    stage_two_from: first optimiser step of stage 2; 6,000 of 60,000 in the
      code's instructions.
    interpolates: whether the routing adds (1 - a) x, see above.
  """

  replays: ClassVar[bool] = True

  student: Scorer = fields.choice(SCORERS, SCORERS['token_embedding']())
  stage_two_from: int = fields.number(6000, at_least=0)
  interpolates: bool = False

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    return {'student': (self.student, num_experts)}

  @property
  def experts_per_token(self) -> float:
    return 1

  @property
  def counts_steps(self) -> bool:
    return True

  @property
  def frozen_scorers(self) -> dict[str, int]:
    return {'student': self.stage_two_from}

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    logits_TE, student_TE = inputs.logits_TE, inputs.extra_scores['student']
    learning = inputs.training & (inputs.steps < self.stage_two_from)
    greedy_T1 = _best(inputs.biased(logits_TE))
    expert_T1 = jnp.where(learning, greedy_T1, _best(student_TE))
    expert_T1, _ = replay.choice(inputs.replayed, expert_T1)
    alpha_T1 = jax.nn.sigmoid(scores.take(logits_TE, expert_T1))
    alpha_T1 = replay.weights(inputs.replayed, alpha_T1)

    missed_T = -scores.take(jax.nn.log_softmax(student_TE), greedy_T1)[:, 0]
    hit_TE = expert_T1 == jnp.arange(logits_TE.shape[1])
    routing = contract.token_choice(
      inputs,
      expert_T1,
      alpha_T1,
      jax.nn.softmax(logits_TE, axis=-1),
      {
        'distill_T': jnp.where(learning, missed_T, 0.0),
        'stable_TE': jnp.where(learning & hit_TE, alpha_T1, 0.0),
      },
    )
    if not self.interpolates:
      return routing
    rest_T = jnp.where(inputs.valid_T, 1 - alpha_T1[:, 0], 0.0)
    return dataclasses.replace(routing, residual_T=rest_T)


def _best(score_TE: jax.Array) -> jax.Array:
  """The expert of the largest score, [T, 1]; of equals the first."""
  return jnp.argmax(score_TE, axis=1, keepdims=True)
