"""The balance loss of LibMoE for vision: first choices of each sequence."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, scope

# (inputs, routing) -> the probabilities whose mean is P_i, [T, E].
PROBABILITIES = {
  'router': lambda _, routing: routing.prob_TE,
  'softmax': lambda inputs, _: jax.nn.softmax(inputs.logits_TE, axis=-1),
}


@dataclasses.dataclass(frozen=True)
class FirstChoice(scope.Scoped):
  """alpha * E * sum_i f_i P_i of each sequence, and the mean of sequences.

  The code of LibMoE (arXiv 2411.00918) for vision-language models: f_i is the
  share of a sequence's tokens whose first choice is i, however many experts a
  token uses, and P_i the mean of softmax(logits), also where the router takes
  sigmoids. Balanced it is alpha. A sequence is an image there.

  Over the batch, with the router's probabilities, it is `switch`.

  Attributes:
    alpha: 0.01 there.
    over: 'sequence' is theirs; 'batch' takes f and P over the global batch.
    probability: 'softmax' is theirs; 'router' takes the router's own
      probabilities, which sum to 1.
  """

  needs_equal_layers: ClassVar[bool] = True

  alpha: float = base.loss_weight(0.01)
  over: str = fields.named(scope.SCOPES, 'sequence')
  probability: str = fields.named(PROBABILITIES, 'softmax')

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    prob_TE = PROBABILITIES[self.probability](inputs, routing)
    if prob_TE.shape != routing.prob_TE.shape:
      raise errors.InputError(
        f'with probability={self.probability} needs one logit for each expert; '
        'use another router, or probability=router'
      )
    first_T1 = counts.first(routing)[:, None]
    hit_TE = first_T1 == jnp.arange(routing.prob_TE.shape[1])
    valid_T1 = inputs.valid_T[:, None].astype(jnp.float32)
    return {
      'count_E': counts.sum_by_sequence(inputs, hit_TE.astype(jnp.float32)),
      'prob_E': counts.sum_by_sequence(inputs, prob_TE),
      'tokens': counts.sum_by_sequence(inputs, valid_T1)[:, 0],
    }

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    f_E, p_E = sums['count_E'] / tokens, sums['prob_E'] / tokens
    return self.alpha * len(f_E) * jnp.sum(f_E * p_E)
