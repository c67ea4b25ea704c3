"""BASE layers: a balanced assignment in training, greedy in evaluation."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.moe import contract, replay
from moejax.moe.routers import assignment, transport


@dataclasses.dataclass(frozen=True)
class BaseLayer(contract.Router):
  """Balanced assignment of sparse experts (BASE, arXiv 2103.16716, section 3).

  Training: one expert for each token, so that all experts have equally many
  tokens and the sum of scores is the largest possible. Evaluation: the expert
  of each token's largest score. The choice has no gradient; the layer's output
  is

    a * E_e(x) + (1 - a) * x,   a = sigmoid(x . c_e)

  for the chosen expert e, which trains the centroids c. It needs no balance
  loss. The scorer's centroids start orthogonal with gain 0.1 in the paper's
  code.

  The paper's experts are residual, E(x) = x + F(x), so the output is
  x + a F(x). A block that adds x itself therefore needs the weight a alone;
  `interpolates` adds (1 - a) x for a block that does not.

  Where we differ: tokens compete within one sequence, where the paper shuffles
  tokens over all workers' batches, so the result depends on neither mesh nor
  micro-batches; where E does not divide the tokens, experts' loads differ by
  one; and the assignment is the optimum (see `routers.assignment`), where the
  paper's code stops an auction early. In the paper's code the router sees the
  block's input without normalisation, and experts normalise it themselves; here
  router and experts see the normalised input. In that code the experts' output
  matrix starts at zero; here it starts like other matrices.

  In training the assignment looks at the whole sequence, later tokens included,
  as in the paper; evaluation is causal.

  Attributes:
    interpolates: whether the routing adds (1 - a) x, see above.
  """

  tokens_compete: ClassVar[bool] = True
  replays: ClassVar[bool] = True

  interpolates: bool = False

  @property
  def experts_per_token(self) -> float:
    return 1

  @property
  def chooses_by(self) -> str:
    return 'logits'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    logits_TE = inputs.logits_TE
    choose_TE = inputs.biased(logits_TE)
    if inputs.training:
      expert_T = jax.vmap(assignment.assign)(
        transport.by_sequence(inputs, choose_TE),
        transport.by_sequence(inputs, inputs.valid_T),
      ).reshape(-1)
    else:
      expert_T = jnp.argmax(choose_TE, axis=1)
    # Padding gets an arbitrary expert here; `token_choice` sends it nowhere.
    expert_T1 = jnp.minimum(expert_T, logits_TE.shape[1] - 1)[:, None]
    expert_T1, _ = replay.choice(inputs.replayed, expert_T1)
    weight_T1 = jax.nn.sigmoid(
      jnp.take_along_axis(logits_TE, expert_T1, axis=1)
    )
    weight_T1 = replay.weights(inputs.replayed, weight_T1)
    routing = contract.token_choice(
      inputs, expert_T1, weight_T1, jax.nn.softmax(logits_TE, axis=-1)
    )
    if not self.interpolates:
      return routing
    residual_T = jnp.where(inputs.valid_T, 1 - weight_T1[:, 0], 0.0)
    return dataclasses.replace(routing, residual_T=residual_T)
