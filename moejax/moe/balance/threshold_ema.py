"""Thresholds of experts: moving averages of the q-th largest logit."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts

BINS = 1000
# Bins have equal widths in asinh(logit / FINE), so that their width is constant
# near 0 and proportional to the logit far from 0.
FINE = 0.1
LARGEST = 100.0
REACH = math.asinh(LARGEST / FINE)


@dataclasses.dataclass(frozen=True)
class ThresholdEma(base.Balance):
  """c_e = decay c_e + (1 - decay) (the q-th largest logit), q = T k / E.

  The thresholds of Expert Threshold routing (arXiv 2603.11535, section 3 and
  algorithm 1), for the router `expert_threshold`: the q-th largest logit of an
  expert is the threshold at which it would have had its share of the last
  batch; the average is that of an ever larger batch. As in the authors' code
  the average starts at 0 and is divided by 1 - decay^steps. Its negative is
  the selection bias.

  The q-th largest is of the tokens of the global batch. It is read off a
  histogram of 1000 bins, which adds up over shards and micro-batches, by
  linear interpolation within a bin: to a bin's width at worst, 1.5% of it or
  0.0015 near zero, and better with many tokens. Logits beyond +-100 count as
  those. The authors average the values of devices and micro-batches instead, of
  which each has a q of its own. Padding is not seen.

  Attributes:
    k: experts of a token on average; should be `expert_threshold`'s k.
    decay: of the average; the authors' code has 0.99.
  """

  k: float = fields.number(1.0, above=0, at_most=10**6)
  decay: float = fields.number(0.99, at_least=0, below=1)

  def check(self, num_experts: int) -> None:
    if self.k > num_experts:
      raise errors.InputError(
        f'k={self.k} experts per token, but there are '
        f'{num_experts}; use a number up to that'
      )

  def shrunk(self, num_experts: int) -> 'ThresholdEma':
    return dataclasses.replace(self, k=min(self.k, 2.0, float(num_experts)))

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    logits_TE = jax.lax.stop_gradient(inputs.logits_TE)
    place_TE = (jnp.arcsinh(logits_TE / FINE) / REACH + 1) / 2
    bin_TE = jnp.floor(place_TE * BINS).astype(jnp.int32)
    bin_TE = jnp.clip(bin_TE, 0, BINS - 1)
    one_TE = jnp.broadcast_to(inputs.valid_T[:, None], bin_TE.shape)
    num_experts = bin_TE.shape[1]
    bins_EB = jnp.zeros((num_experts, BINS), jnp.float32)
    bins_EB = bins_EB.at[jnp.arange(num_experts), bin_TE].add(
      one_TE.astype(jnp.float32)
    )
    return {'bins_EB': bins_EB, 'tokens': counts.tokens(inputs)}

  def initial_state(self, num_experts: int) -> contract.RouterState:
    zeros_E = jnp.zeros(num_experts, jnp.float32)
    return contract.RouterState(
      zeros_E,
      {'average_E': zeros_E, 'updates': jnp.zeros((), jnp.float32)},
    )

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    return jax.vmap(self._update)(state, sums)

  def _update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    value_E = self._largest(sums)
    average_E = (
      self.decay * state.kept['average_E'] + (1 - self.decay) * value_E
    )
    updates = state.kept['updates'] + 1
    threshold_E = average_E / (1 - self.decay**updates)
    new = contract.RouterState(
      -threshold_E, {'average_E': average_E, 'updates': updates}
    )
    seen = sums['tokens'] > 0
    return jax.tree.map(lambda x, old: jnp.where(seen, x, old), new, state)

  def _largest(self, sums: dict[str, jax.Array]) -> jax.Array:
    """The q-th largest logit of each expert, [E]."""
    bins_EB = sums['bins_EB']
    wanted = jnp.maximum(sums['tokens'] * self.k / len(bins_EB), 1)
    above_EB = jnp.cumsum(bins_EB[:, ::-1], axis=-1)[:, ::-1]
    # The highest bin such that it and the bins above hold q logits or more.
    bin_E = jnp.sum(above_EB >= wanted, axis=-1) - 1
    bin_E = jnp.clip(bin_E, 0, BINS - 1)
    take = lambda x_EB: jnp.take_along_axis(x_EB, bin_E[:, None], axis=1)[:, 0]
    inside_E = jnp.maximum(take(bins_EB), 1)
    # The logits of a bin are taken to divide it evenly, and the q-th largest to
    # be at the middle of its share, counted from the bottom of the bin.
    from_below_E = (take(above_EB) - wanted + 0.5) / inside_E
    place_E = (bin_E + jnp.clip(from_below_E, 0, 1)) / BINS
    return FINE * jnp.sinh(REACH * (2 * place_E - 1))
