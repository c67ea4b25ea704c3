"""From logits to the next token: greedy, temperature, top-k, top-p."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import best, errors


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is chosen from logits.

  Attributes:
    temperature: divisor of the logits; 0 takes the most probable token.
    top_p: draws from the smallest set of most probable tokens that has at
      least this probability (nucleus sampling, arXiv 1904.09751).
    top_k: draws from this many most probable tokens; 0 is all. With both, top_p
      is the share of the probability of those that top_k keeps.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0

  def __post_init__(self):
    if not 0 <= self.temperature < math.inf:
      raise errors.InputError(
        f'temperature={self.temperature} must be 0 (greedy) or more, and finite'
      )
    if not 0 < self.top_p <= 1:
      raise errors.InputError(
        f'top_p={self.top_p} must be above 0 and at most 1 (no limit)'
      )
    if self.top_k < 0:
      raise errors.InputError(f'top_k={self.top_k} must be 0 (all) or more')

  @property
  def in_words(self) -> str:
    """The sampling in words, for the screen."""
    if self.temperature == 0:
      return 'the most probable token each time'
    limits = f', top_p {self.top_p:g}' if self.top_p < 1 else ''
    limits += f', top_k {self.top_k}' if self.top_k else ''
    return f'drawn with temperature {self.temperature:g}{limits}'

  def choose(self, logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
    """token_B, int32; each row draws with its own key."""
    if self.temperature == 0:
      return best.last_axis(logits_BV)[:, 0]
    draw = jax.vmap(jax.random.categorical)
    return draw(key_B, self.limit(logits_BV)).astype(jnp.int32)

  def limit(self, logits_BV: jax.Array) -> jax.Array:
    """Logits over the temperature, -inf for tokens that cannot be drawn.

    Example, temperature 1 and top_p 0.7:
      probabilities  [0.1, 0.5, 0.3, 0.1]
      drawn from     [ - , 0.5, 0.3,  - ]
    """
    logits_BV = logits_BV / self.temperature
    if self.top_p == 1 and not self.top_k:
      return logits_BV
    # One sort, of the logits with their tokens; equal ones keep their order.
    size = logits_BV.shape[-1]
    token_BV = jax.lax.broadcasted_iota(jnp.int32, logits_BV.shape, 1)
    sorted_BV, order_BV = jax.lax.sort(
      (-logits_BV, token_BV), num_keys=1, is_stable=True
    )
    sorted_BV = -sorted_BV
    keep_V = jnp.arange(size) < (self.top_k or size)
    prob_BV = jax.nn.softmax(jnp.where(keep_V, sorted_BV, -jnp.inf), axis=-1)
    before_BV = jnp.cumsum(prob_BV, axis=-1) - prob_BV
    # In float32 the sum of probabilities may reach 1 before the last token, so
    # without a limit the threshold is above 1.
    enough = self.top_p if self.top_p < 1 else 2.0
    # Those that are kept come first, so the last of them says which they are.
    last_B1 = jnp.sum(keep_V & (before_BV < enough), axis=-1, keepdims=True) - 1
    at_last = lambda x_BV: jnp.take_along_axis(x_BV, last_B1, axis=-1)
    least_B1 = at_last(sorted_BV)
    is_first_BV = token_BV <= at_last(order_BV)
    keep_BV = (logits_BV > least_B1) | ((logits_BV == least_B1) & is_first_BV)
    return jnp.where(keep_BV, logits_BV, -jnp.inf)


# The default of reports and of `moejax generate`.
USUAL = Sampling(temperature=0.7, top_p=0.9)
