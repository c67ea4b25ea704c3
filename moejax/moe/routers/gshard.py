"""GShard's top-2 gating with a random second expert."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class GShard:
  """Top-2 gating of GShard (arXiv 2006.16668, section 2.2, Algorithm 1).

  1. g = softmax over experts; g1, g2 the two largest; both divided by g1 + g2.
  2. First choices take their places in token order, then second choices.
  3. A second choice is used with probability min(1, 2 * g2) and, if not, its
     place in the expert stays taken: the algorithm's counter goes up whether or
     not the token is sent. Here that is a weight of 0 in an ordinary
     assignment.
  4. A choice beyond the expert's capacity is dropped; the other keeps its
     weight. That is the `capacity` dispatcher's part, by the list's order;
     `capacity` with factor 1 is the paper's C = 2 S / E.

  Without a random key (evaluation) every second choice is used.

  The paper's local groups, each with a capacity and a balance loss of its own,
  are shards of a device; here a group is a sequence, whatever the mesh.
  """

  def check(self, num_experts: int) -> None:
    if num_experts < 2:
      raise errors.InputError(
        f'router gshard sends a token to 2 experts, but there are {num_experts}'
      )

  @property
  def experts_per_token(self) -> float:
    return 2

  def __call__(self, given: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(given.logits_TE, axis=-1)
    gate_T2, expert_T2 = jax.lax.top_k(prob_TE, 2)
    gate_T2 = gate_T2 / gate_T2.sum(axis=-1, keepdims=True)
    if given.key is not None:
      used_T = 2 * gate_T2[:, 1] > contract.uniform(given, 1)[:, 0]
      gate_T2 = gate_T2.at[:, 1].set(jnp.where(used_T, gate_T2[:, 1], 0.0))
    return contract.token_choice(given, expert_T2, gate_T2, prob_TE)
