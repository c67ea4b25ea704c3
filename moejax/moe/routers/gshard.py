"""Top-2 gating: GShard's random second expert, and later rules for it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import noise, scores

SAMPLING_SALT = 1


@dataclasses.dataclass(frozen=True)
class SecondAlways(fields.Checked):
  """Every second choice is used: praxis' and lingvo's default."""

  @property
  def experts_per_token(self) -> int:
    """The largest number of experts of a token, for counting FLOPs."""
    return 2

  def pick(
    self,
    inputs: contract.RouterInput,
    prob_TE: jax.Array,
    expert_T2: jax.Array,
  ) -> jax.Array:
    """The two experts of each token.

    Args:
      inputs: the router's.
      prob_TE: softmax of the logits.
      expert_T2: the experts of the two largest (biased) probabilities.
    """
    del inputs, prob_TE
    return expert_T2

  def used(self, inputs: contract.RouterInput, gate_T2: jax.Array) -> jax.Array:
    """Whether a token uses its second choice; bool [T].

    Args:
      inputs: the router's.
      gate_T2: gates of both choices, which sum to 1.
    """
    del inputs
    return jnp.ones(len(gate_T2), bool)


@dataclasses.dataclass(frozen=True)
class SecondNever(SecondAlways):
  """No second choice is used; the first keeps its g1 / (g1 + g2)."""

  @property
  def experts_per_token(self) -> int:
    return 1

  def used(self, inputs: contract.RouterInput, gate_T2: jax.Array) -> jax.Array:
    del inputs
    return jnp.zeros(len(gate_T2), bool)


@dataclasses.dataclass(frozen=True)
class SecondByChance(SecondAlways):
  """Used with probability min(1, g2 / threshold) in training, else always.

  GShard has 0.5; Mesh TensorFlow 0.2, at evaluation too. In praxis and lingvo
  the layer leaves it at 0, so that "random" there uses every second choice.

  Attributes:
    threshold: the g2 from which on the second choice is always used.
  """

  threshold: float = fields.number(0.5, at_least=0, at_most=1)

  def used(self, inputs: contract.RouterInput, gate_T2: jax.Array) -> jax.Array:
    if not inputs.training:
      return super().used(inputs, gate_T2)
    chance_T = gate_T2[:, 1] / max(self.threshold, 1e-9)
    return chance_T > noise.uniform(inputs, 1)[:, 0]


@dataclasses.dataclass(frozen=True)
class SecondAboveThreshold(SecondAlways):
  """Used if g2 > threshold (Mesh TensorFlow).

  Attributes:
    threshold: the g2 above which the second choice is used.
  """

  threshold: float = fields.number(0.2, at_least=0, at_most=1)

  def used(self, inputs: contract.RouterInput, gate_T2: jax.Array) -> jax.Array:
    del inputs
    return gate_T2[:, 1] > self.threshold


@dataclasses.dataclass(frozen=True)
class SecondAboveRatio(SecondAlways):
  """Used if g2 > threshold * g1: ST-MoE's text, with 1/5.

  Attributes:
    threshold: the g2 / g1 above which the second choice is used.
  """

  threshold: float = fields.number(0.2, at_least=0, at_most=1)

  def used(self, inputs: contract.RouterInput, gate_T2: jax.Array) -> jax.Array:
    del inputs
    return gate_T2[:, 1] > self.threshold * gate_T2[:, 0]


@dataclasses.dataclass(frozen=True)
class SecondDrawn(SecondAlways):
  """The second is drawn by the probabilities without the first, in training.

  Praxis and lingvo. Selection biases have no part in the draw.
  """

  def pick(
    self,
    inputs: contract.RouterInput,
    prob_TE: jax.Array,
    expert_T2: jax.Array,
  ) -> jax.Array:
    if not inputs.training:
      return expert_T2
    num_experts = prob_TE.shape[1]
    noise_TE = noise.gumbel(inputs, num_experts, SAMPLING_SALT)
    first_TE = expert_T2[:, :1] == jnp.arange(num_experts)
    noisy_TE = jnp.where(first_TE, -jnp.inf, inputs.logits_TE + noise_TE)
    return expert_T2.at[:, 1].set(jnp.argmax(noisy_TE, axis=1))


SECONDS = {
  'all': SecondAlways,
  'none': SecondNever,
  'random': SecondByChance,
  'ratio': SecondAboveRatio,
  'sampling': SecondDrawn,
  'threshold': SecondAboveThreshold,
}


@dataclasses.dataclass(frozen=True)
class GShard(contract.Router):
  """Top-2 gating of GShard (arXiv 2006.16668, section 2.2, Algorithm 1).

  1. g = softmax over experts; g1, g2 the two largest; both divided by g1 + g2.
  2. First choices take their places in token order, then second choices.
  3. A second choice is used with probability min(1, 2 * g2). If it is not used,
     its place in the expert stays taken: the algorithm's counter goes up
     whether or not the token is sent. Here such a choice is an ordinary
     assignment with weight 0.
  4. A choice beyond the expert's capacity is dropped; the other choice keeps
     its weight. The `capacity` dispatcher does this, in the order of the list;
     with factor 1 it has the paper's C = 2 S / E.

  Without a random key (evaluation) every second choice is used.

  The paper's local groups, each with a capacity and a balance loss of its own,
  are shards of a batch; here a group is a sequence, whatever the mesh.

  Later versions, as settings:

    praxis, lingvo   dropped_use_slot off, second=all (or another)
    ST-MoE           dropped_use_slot off, second=ratio (arXiv 2202.08906); its
                     code, Mesh TensorFlow's, has second=random with a threshold
                     of 0.2 instead. Capacity 1.25, at evaluation 2

  With a selection bias b, the two are chosen by g + b; gates are made of g.

  In a replay a second choice is used where one is recorded.

  Attributes:
    second: when a token's second choice is used, see `SECONDS`.
    dropped_use_slot: whether a second choice that is not used keeps its place
      in the expert, as in Algorithm 1 but in no released code.
  """

  replays: ClassVar[bool] = True

  second: SecondAlways = fields.choice(SECONDS, SecondByChance())
  dropped_use_slot: bool = True

  def check(self, num_experts: int) -> None:
    if num_experts < 2:
      raise errors.InputError(
        f'router gshard sends a token to 2 experts, but there are {num_experts}'
      )

  @property
  def experts_per_token(self) -> float:
    return self.second.experts_per_token

  @property
  def expert_needs(self) -> ExpertNeeds:
    return ExpertNeeds(2)

  @property
  def chooses_by(self) -> str:
    return 'softmax'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
    _, expert_T2 = jax.lax.top_k(inputs.biased(prob_TE), 2)
    expert_T2 = self.second.pick(inputs, prob_TE, expert_T2)
    if inputs.replayed is not None:
      expert_T2, used_T = _replayed_pair(inputs.replayed, expert_T2)
    gate_T2 = scores.renormalised(scores.take(prob_TE, expert_T2))
    if inputs.replayed is None:
      used_T = self.second.used(inputs, gate_T2)
    gate_T2 = gate_T2.at[:, 1].set(jnp.where(used_T, gate_T2[:, 1], 0.0))
    if self.experts_per_token < 2 or not self.dropped_use_slot:
      second_T = jnp.where(used_T, expert_T2[:, 1], prob_TE.shape[1])
      expert_T2 = expert_T2.at[:, 1].set(second_T)
    return contract.token_choice(inputs, expert_T2, gate_T2, prob_TE)


def _replayed_pair(
  replayed: replay.Replayed, own_T2: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The two recorded experts, and whether the second is used, [T].

  The gate of a token that uses its first choice alone is g1 / (g1 + g2) too.
  The second choice, which is not recorded then, is the better of the router's
  own two that is not the first.
  """
  expert_T2, _ = replay.choice(replayed, own_T2)
  is_second_T = replayed.is_used[:, 1]
  first_T = expert_T2[:, 0]
  other_T = jnp.where(own_T2[:, 0] == first_T, own_T2[:, 1], own_T2[:, 0])
  second_T = jnp.where(is_second_T, expert_T2[:, 1], other_T)
  return jnp.stack([first_T, second_T], axis=1), is_second_T
