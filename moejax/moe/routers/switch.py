"""Switch: one expert per token, and exploration of others in training."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.routers import noise, scores

# Noise on the input and noise on the logits are drawn from the same key.
INPUT_SALT, LOGITS_SALT = 1, 2


@dataclasses.dataclass(frozen=True)
class Argmax(fields.Checked):
  """No noise: the expert of the largest logit."""

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array
  ) -> jax.Array:
    """The input of the scorers, in training; see `Router.scorer_input`."""
    del index_T, key
    return x_TD

  def logits(self, inputs: contract.RouterInput) -> jax.Array:
    """The logits that the softmax and the choice are made from, in training."""
    return inputs.logits_TE

  def choice(
    self, inputs: contract.RouterInput, prob_TE: jax.Array
  ) -> jax.Array:
    """The scores of which the largest is chosen, in training; [T, E]."""
    del inputs
    return prob_TE


@dataclasses.dataclass(frozen=True)
class InputJitter(Argmax):
  """Multiplies the router's input by U(1 - epsilon, 1 + epsilon).

  This is the released code of Mesh TensorFlow and of nearly every port.

  Attributes:
    epsilon: largest relative change of an input.
  """

  epsilon: float = fields.number(1e-2, at_least=0, below=1)

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array
  ) -> jax.Array:
    width = x_TD.shape[1]
    noise_TD = noise.draw(jax.random.uniform, key, index_T, width, INPUT_SALT)
    return x_TD * (1 + self.epsilon * (2 * noise_TD - 1))


@dataclasses.dataclass(frozen=True)
class LogitsJitter(Argmax):
  """Adds U(1 - epsilon, 1 + epsilon) to each logit: the paper's pseudo-code.

  Attributes:
    epsilon: half the width of the noise.
  """

  epsilon: float = fields.number(1e-2, at_least=0, below=1)

  def logits(self, inputs: contract.RouterInput) -> jax.Array:
    num_experts = inputs.logits_TE.shape[1]
    noise_TE = noise.uniform(inputs, num_experts, LOGITS_SALT)
    return inputs.logits_TE + 1 + self.epsilon * (2 * noise_TE - 1)


@dataclasses.dataclass(frozen=True)
class InputDropout(Argmax):
  """Dropout on the router's input.

  Attributes:
    rate: probability with which a feature is set to 0.
  """

  rate: float = fields.number(0.1, at_least=0, below=1)

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array
  ) -> jax.Array:
    width = x_TD.shape[1]
    noise_TD = noise.draw(jax.random.uniform, key, index_T, width, INPUT_SALT)
    return jnp.where(noise_TD < self.rate, 0.0, x_TD / (1 - self.rate))


@dataclasses.dataclass(frozen=True)
class Sample(Argmax):
  """Draws the expert from softmax(logits / temperature).

  The gate is the probability at temperature 1. A selection bias is added to
  logits / temperature.

  Attributes:
    temperature: divisor of the logits; a small one draws the best expert.
  """

  temperature: float = fields.number(1.0, above=0, at_most=1000)

  def choice(
    self, inputs: contract.RouterInput, prob_TE: jax.Array
  ) -> jax.Array:
    noise_TE = noise.gumbel(inputs, prob_TE.shape[1], LOGITS_SALT)
    return inputs.logits_TE / self.temperature + noise_TE


NOISES = {
  'argmax': Argmax,
  'input_dropout': InputDropout,
  'input_jitter': InputJitter,
  'logits_jitter': LogitsJitter,
  'sample': Sample,
}


@dataclasses.dataclass(frozen=True)
class Switch(contract.Router):
  """Top 1 with its softmax probability as the gate.

  Switch Transformer (arXiv 2101.03961, section 2.1, equations 1 and 2). The
  gate is not divided by itself, so that it has a gradient. With the `capacity`
  dispatcher tokens over capacity skip the layer; the balance loss is
  `expert_level`, the start of the centroids `scorer.start=switch`.

  Noise explores in training alone. The paper's pseudo-code adds it to the
  logits; released code multiplies the router's input. Mesh TensorFlow has a
  policy for evaluation too; here evaluation has no noise.

  Attributes:
    noise: how tokens explore experts other than their best, see `NOISES`.
  """

  replays: ClassVar[bool] = True

  noise: Argmax = fields.choice(NOISES, InputJitter())

  def check(self, num_experts: int) -> None:
    if num_experts < 1:
      raise errors.InputError(
        f'router switch needs an expert, but there are {num_experts}'
      )

  @property
  def experts_per_token(self) -> float:
    return 1

  @property
  def weights_are_independent(self) -> bool:
    return True

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array | None
  ) -> jax.Array:
    return x_TD if key is None else self.noise.scorer_input(x_TD, index_T, key)

  @property
  def chooses_by(self) -> str:
    return 'softmax'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    logits_TE = inputs.logits_TE
    if inputs.training:
      logits_TE = self.noise.logits(inputs)
    choice_TE = prob_TE = jax.nn.softmax(logits_TE, axis=-1)
    if inputs.training:
      choice_TE = self.noise.choice(inputs, prob_TE)
    _, expert_T1 = jax.lax.top_k(inputs.biased(choice_TE), 1)
    expert_T1, _ = replay.choice(inputs.replayed, expert_T1)
    gate_T1 = scores.take(prob_TE, expert_T1)
    return contract.token_choice(inputs, expert_T1, gate_T1, prob_TE)
