"""SparseMixer-v2: sampled experts, with a gradient through the sampling."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.routers import fixed_k, noise, scores

# Heun's third order method: f(x) - f(0) = x f'(x) / 4 + 3 x f'(x / 3) / 4
# So the gate of an expert that was not the most probable is its probability in
# a quarter of the draws, and a third of its probability in the others.
FULL_GATE_CHANCE = 0.25
REDUCED_GATE = 1 / 3


@dataclasses.dataclass(frozen=True)
class SparseMixer(fixed_k.FixedK):
  """Samples experts; the gates' gradients include that of the sampling.

  SparseMixer-v2 of GRIN (arXiv 2409.12136) and of Phi-3.5-MoE. The experts of a
  token are chosen one after the other; l are the logits of the experts that are
  not chosen yet, and m is the largest of them:

    1. mask    l_i is out if (m - l_i) / max(|l_i|, m) > 2 r
    2. sample  i of p = softmax(l of what is in), by Gumbel noise
    3. weigh   the gate is p_i if i is the most probable, or with chance 1/4;
               else p_i / 3. Its gradient is that of p_i in every case

  Evaluation takes the most probable and weighs with p_i. By Heun's third order
  method, step 3 gives an estimate of the gradient of the expected output with
  respect to l, the draw included. Each gate comes from its own softmax, so the
  gates do not sum to 1, and if all other logits are masked the gate is 1.

  The probabilities for balance losses are the softmax of all logits, as in the
  authors' code. A selection bias is added to l in steps 1 and 2.

  Attributes:
    k: experts per token; the authors' code has 1 and 2.
    r: half the relative distance from the largest logit within which experts
      are sampled; 0.01 in the released models, 0 samples nothing.
  """

  r: float = fields.number(0.01, at_least=0, at_most=1000)

  @property
  def chooses_by(self) -> str:
    return 'logits'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    logits_TE = inputs.logits_TE
    left_TE = jnp.ones(logits_TE.shape, bool)
    experts, gates = [], []
    for place in range(self.k):
      expert_T, gate_T = self._next_expert(inputs, left_TE, place)
      experts.append(expert_T)
      gates.append(gate_T)
      taken_TE = expert_T[:, None] == jnp.arange(logits_TE.shape[1])
      left_TE = left_TE & ~taken_TE
    return contract.token_choice(
      inputs,
      jnp.stack(experts, axis=1),
      jnp.stack(gates, axis=1),
      jax.nn.softmax(logits_TE, axis=-1),
    )

  def _next_expert(
    self, inputs: contract.RouterInput, left_TE: jax.Array, place: int
  ) -> tuple[jax.Array, jax.Array]:
    """The next expert of each token and its gate, both [T].

    Args:
      inputs: the router's.
      left_TE: bool, experts that the token has not chosen yet.
      place: number of experts that are chosen already; salts the noise.
    """
    choice_TE = jnp.where(left_TE, inputs.biased(inputs.logits_TE), -jnp.inf)
    most_T1 = jnp.max(choice_TE, axis=-1, keepdims=True)
    factor_TE = jnp.maximum(jnp.abs(choice_TE), most_T1)
    is_in_TE = left_TE & (most_T1 - choice_TE <= 2 * self.r * factor_TE)
    # Experts are masked by logits with bias, and probable by those without.
    masked_TE = jnp.where(is_in_TE, inputs.logits_TE, -jnp.inf)
    prob_TE = jax.nn.softmax(masked_TE, axis=-1)
    choice_TE = jnp.where(is_in_TE, choice_TE, -jnp.inf)
    first_T = jnp.argmax(choice_TE, axis=-1)
    expert_T = first_T
    if inputs.training:
      drawn_TE = noise.gumbel(inputs, choice_TE.shape[1], 2 * place + 1)
      expert_T = jnp.argmax(choice_TE + drawn_TE, axis=-1)
    gate_T = scores.take(prob_TE, expert_T[:, None])[:, 0]
    if inputs.training:
      chance_T = noise.uniform(inputs, 1, 2 * place + 2)[:, 0]
      is_full_T = (expert_T == first_T) | (chance_T < FULL_GATE_CHANCE)
      share_T = jnp.where(is_full_T, 1.0, REDUCED_GATE)
      # The value is share * gate, the gradient that of the gate.
      gate_T = gate_T + jax.lax.stop_gradient((share_T - 1) * gate_T)
    return expert_T, gate_T
