"""Noisy top-k gating: noise on the logits, and a load with a gradient."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields, special
from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, noise, scores
from moejax.moe.scorers import Linear
from moejax.moe.scorers.base import Scorer

# The smallest standard deviation that is divided by.
LEAST_STD = 1e-6


@dataclasses.dataclass(frozen=True)
class Noise(fields.Checked):
  """The base of noise on logits, and of the gates and sums that go with it."""

  # Whether the gates of the chosen experts sum to 1; a class attribute without
  # annotation, so it is no config key.
  among_kept = False

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    """See `contract.Router.extra_scorers`."""
    del num_experts
    return {}

  def std(self, inputs: contract.RouterInput) -> jax.Array:
    """Standard deviation of the noise, [T, E] or a scalar."""
    raise NotImplementedError

  def gates(
    self,
    noisy_TE: jax.Array,
    expert_TK: jax.Array,
    is_used_TK: jax.Array | None = None,
  ) -> jax.Array:
    """Gates of the chosen experts, [T, K], 0 for those that are not used."""
    raise NotImplementedError

  def importance(
    self, prob_TE: jax.Array, chosen_TKE: jax.Array, gate_TK: jax.Array
  ) -> jax.Array:
    """The values whose sum over tokens is the importance of experts, [T, E].

    Args:
      prob_TE: softmax of the logits without noise.
      chosen_TKE: bool, the choices as one-hot.
      gate_TK: gates of the chosen experts.
    """
    raise NotImplementedError

  def bar(self, noisy_TE: jax.Array, k: int) -> jax.Array:
    """The value that an expert's noisy logit must exceed to be chosen; k < E.

    Returns:
      [T, E], or [T, 1] if it is the same for all experts.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Learned(Noise):
  """A learned standard deviation per token and expert: Shazeer et al. 2017.

  The deviation is softplus(x W_noise) + floor, where W_noise starts at zero.
  Gates are the softmax over the kept noisy logits; importance sums the gates.
  An expert is compared with the k-th largest noisy logit of the others.

  Attributes:
    floor: the least deviation; 1e-2 in the released code, 0 in the paper.
  """

  floor: float = fields.number(1e-2, at_least=0, at_most=100)
  among_kept = True

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    return {'noise': (Linear(start='zeros'), num_experts)}

  def std(self, inputs: contract.RouterInput) -> jax.Array:
    return jax.nn.softplus(inputs.extra_scores['noise']) + self.floor

  def gates(
    self,
    noisy_TE: jax.Array,
    expert_TK: jax.Array,
    is_used_TK: jax.Array | None = None,
  ) -> jax.Array:
    noisy_TK = scores.take(noisy_TE, expert_TK)
    noisy_TK = scores.kept(noisy_TK, is_used_TK, scores.LEAST_LOGIT)
    return scores.kept(jax.nn.softmax(noisy_TK, axis=-1), is_used_TK)

  def importance(
    self, prob_TE: jax.Array, chosen_TKE: jax.Array, gate_TK: jax.Array
  ) -> jax.Array:
    del prob_TE
    return jnp.sum(gate_TK[:, :, None] * chosen_TKE, axis=1)

  def bar(self, noisy_TE: jax.Array, k: int) -> jax.Array:
    best_TK, _ = jax.lax.top_k(noisy_TE, k + 1)
    # For an expert among the k largest, the k-th largest of the others is the
    # (k + 1)-th largest of all.
    inside, outside = best_TK[:, k:], best_TK[:, k - 1 : k]
    return jnp.where(noisy_TE > inside, inside, outside)


@dataclasses.dataclass(frozen=True)
class Fixed(Noise):
  """One standard deviation, `strength` / E: V-MoE (arXiv 2106.05974, code).

  Gates are the softmax over all noisy logits, not renormalised. Importance sums
  the softmax without noise. Every expert is compared with the k-th largest
  noisy logit of all, which may be its own.

  Attributes:
    strength: E times the standard deviation of the noise on a logit.
  """

  strength: float = fields.number(
    1.0, above=0, at_most=1000, note='router top_k has no noise'
  )

  def std(self, inputs: contract.RouterInput) -> jax.Array:
    return jnp.asarray(self.strength / inputs.logits_TE.shape[1])

  def gates(
    self,
    noisy_TE: jax.Array,
    expert_TK: jax.Array,
    is_used_TK: jax.Array | None = None,
  ) -> jax.Array:
    prob_TE = jax.nn.softmax(noisy_TE, axis=-1)
    return scores.kept(scores.take(prob_TE, expert_TK), is_used_TK)

  def importance(
    self, prob_TE: jax.Array, chosen_TKE: jax.Array, gate_TK: jax.Array
  ) -> jax.Array:
    del chosen_TKE, gate_TK
    return prob_TE

  def bar(self, noisy_TE: jax.Array, k: int) -> jax.Array:
    return jax.lax.top_k(noisy_TE, k)[0][:, k - 1 :]


NOISES = {'fixed': Fixed, 'learned': Learned}


@dataclasses.dataclass(frozen=True)
class NoisyTopK(fixed_k.FixedK):
  """The k largest of noisy logits, in training.

  Shazeer et al. 2017 (arXiv 1701.06538, section 2.1, equations 3 to 5), and
  with noise.name=fixed V-MoE:

    1. noisy   H = logits + normal * std
    2. choose  the k largest of H, plus the selection biases there are
    3. weigh   gates from H, see `NOISES`

  `extra`, for the losses on the squared coefficient of variation (appendix A):

    gate_TE    its sum over tokens is the importance
    load_TE    its sum over tokens is the load: the probability that an expert
               is chosen if its own noise is drawn anew, Phi((logits - bar) /
               std). Without noise, or with k = E, 1 for a chosen expert, else 0

  Both are 0 for padding. `prob_TE` is without noise; evaluation has no noise.

  Attributes:
    k: experts per token; the paper has 4.
    noise: learned (Shazeer) or fixed (V-MoE).
  """

  replays: ClassVar[bool] = True

  noise: Noise = fields.choice(NOISES, Learned())

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    scores.check_gates(
      self.k == 1 and self.noise.among_kept,
      num_experts,
      'router.k=1 with router.noise.name=learned',
      'set router.k=2 or more, or router.noise.name=fixed',
    )

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    return self.noise.extra_scorers(num_experts)

  @property
  def chooses_by(self) -> str:
    return 'logits'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    clean_TE = inputs.logits_TE
    num_experts = clean_TE.shape[1]
    prob_TE = jax.nn.softmax(clean_TE, axis=-1)
    noisy_TE = clean_TE
    if inputs.training:
      std = self.noise.std(inputs)
      noisy_TE = clean_TE + std * noise.normal(inputs, num_experts)
    _, expert_TK = jax.lax.top_k(inputs.biased(noisy_TE), self.k)
    expert_TK, is_used_TK = replay.choice(inputs.replayed, expert_TK)
    gate_TK = self.noise.gates(noisy_TE, expert_TK, is_used_TK)
    chosen_TKE = expert_TK[:, :, None] == jnp.arange(num_experts)
    if is_used_TK is not None:
      chosen_TKE &= is_used_TK[:, :, None]
    gate_TE = self.noise.importance(prob_TE, chosen_TKE, gate_TK)
    if inputs.training and self.k < num_experts:
      # Experts are chosen with biases, so both sides of the comparison have
      # them.
      bias_TE = inputs.biased(jnp.zeros_like(clean_TE))
      bar = self.noise.bar(noisy_TE + bias_TE, self.k)
      above_TE = (clean_TE + bias_TE - bar) / jnp.maximum(std, LEAST_STD)
      load_TE = special.normal_cdf(above_TE)
    else:
      load_TE = chosen_TKE.any(axis=1).astype(jnp.float32)
    valid_T1 = inputs.valid_T[:, None]
    extra = {
      'gate_TE': jnp.where(valid_T1, gate_TE, 0.0),
      'load_TE': jnp.where(valid_T1, load_TE, 0.0),
    }
    return contract.token_choice(inputs, expert_TK, gate_TK, prob_TE, extra)
