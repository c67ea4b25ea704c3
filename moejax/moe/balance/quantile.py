"""Quantile balancing: the bias that would have balanced the last batch."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts
from moejax.moe.routers import scores

BINS = 1000

# logits_TE -> (the scores that the bias is added to, probabilities).
SCORES = {'logits': lambda x_TE: (x_TE, x_TE), **scores.SCORES}


@dataclasses.dataclass(frozen=True)
class Quantile(base.Balance):
  """Quantile balancing as in Kimi K3: b_e = quantile_{k/E} of alpha_t - s_te.

  J. Su, "quantile balancing" (kexue.fm 11619), in the form of the Kimi K3
  report (section 2.3.3, read second-hand). Three stages:

    1. alpha_t is the (k+1)-th largest biased score of token t: expert e is
       chosen where s_te + b_e > alpha_t, so where alpha_t - s_te < b_e.
    2. b_e becomes the k/E quantile of alpha_t - s_te over the tokens of the
       global batch, at which q = T k / E of them choose e, with all else equal.
    3. The mean is taken out of b, which changes no choice.

  Example, one expert, T=4, q=2: alpha_t - s_te of .04, -.03, .31 and .12 have
  b_e = .08, half-way between the second and the third.

  The quantile is read off a histogram of 1000 bins from min b - reach to max b
  + reach, which adds up over shards and micro-batches (an average of quantiles
  would not be the quantile of all). Where the report is silent, we take the
  point half-way between the q-th and the (q+1)-th value, each the centre of its
  bin: at the (q+1)-th value itself one token would sit on its cut-off. So b is
  exact to a bin's width, (2 reach + max b - min b) / 1000; beyond the ends,
  values count as the end's.

  Group-limited routers are balanced as if they had no groups. Several parts
  with a bias add up.

  Attributes:
    score: must be the scores by which the router chooses: its own `score`, or
      'logits' for a router with `after`.
    reach: upper bound of the spread of one token's scores; 1 for sigmoid and
      softmax. Megatron and Marin balance raw logits, which spread further.
  """

  needs_equal_layers: ClassVar[bool] = True

  score: str = fields.named(SCORES, 'sigmoid')
  reach: float = fields.number(1.0, above=0, at_most=1000)

  def check_router(self, router: contract.Router) -> None:
    by = router.chooses_by
    if by and self.score != by:
      raise errors.InputError(
        f'score={self.score} balances other scores than those by which the '
        f'router chooses: set model.moe.balance.quantile.score={by}'
      )

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    k, num_experts = routing.per_token, routing.prob_TE.shape[1]
    if (
      k is None or k >= num_experts or inputs.logits_TE.shape[1] != num_experts
    ):
      raise errors.InputError(
        'needs a router in which every token chooses k of the experts by their '
        'scores; use another'
      )
    score_TE, _ = SCORES[self.score](jax.lax.stop_gradient(inputs.logits_TE))
    top_TK, _ = jax.lax.top_k(inputs.biased(score_TE), k + 1)
    margin_TE = top_TK[:, -1:] - score_TE
    low, width = self._bins(inputs.needed_state.needed_bias)
    bin_TE = jnp.floor((margin_TE - low) / width).astype(jnp.int32)
    bin_TE = jnp.clip(bin_TE, 0, BINS - 1)
    one_TE = jnp.broadcast_to(inputs.valid_T[:, None], bin_TE.shape)
    bins_EB = jnp.zeros((num_experts, BINS), jnp.float32)
    bins_EB = bins_EB.at[jnp.arange(num_experts), bin_TE].add(
      one_TE.astype(jnp.float32)
    )
    tokens = counts.tokens(inputs)
    return {'bins_EB': bins_EB, 'picks': k * tokens, 'tokens': tokens}

  def initial_state(self, num_experts: int) -> contract.RouterState:
    return contract.RouterState(jnp.zeros(num_experts, jnp.float32))

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    bias_NE = jax.vmap(self._update)(state.needed_bias, sums)
    return contract.RouterState(bias_NE)

  def _bins(self, bias_E: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the first bin starts, and how wide one is."""
    low = jnp.min(bias_E) - self.reach
    return low, (jnp.max(bias_E) + self.reach - low) / BINS

  def _update(self, bias_E: jax.Array, sums: dict[str, jax.Array]) -> jax.Array:
    low, width = self._bins(bias_E)
    wanted = sums['picks'] / len(bias_E)
    upto_EB = jnp.cumsum(sums['bins_EB'], axis=-1)
    # Number of bins below the q-th and the (q + 1)-th smallest value.
    below_E = jnp.sum(upto_EB < wanted, axis=-1)
    above_E = jnp.minimum(jnp.sum(upto_EB <= wanted, axis=-1), BINS - 1)
    new_E = low + width * ((below_E + above_E) / 2 + 0.5)
    return jnp.where(sums['tokens'] > 0, new_E - jnp.mean(new_E), bias_E)
