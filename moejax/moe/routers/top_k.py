"""The k experts of the largest scores: most published routers, as settings."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, noise, scores

DROPOUT_SALT = 1


@dataclasses.dataclass(frozen=True)
class TopK(fixed_k.FixedK):
  """Token choice by the k largest scores.

  The default is DeepSeekMoE's (arXiv 2401.06066, section 3.2, equations 9 to
  11): s = softmax(u e) over all routed experts; the gate is s for the k largest
  and 0 elsewhere. The kept gates are not renormalised, so they sum to less
  than 1. In general:

    1. score   s = score(logits); probabilities s / sum(s) for balance losses
    2. choose  the k largest of s + b, with the selection bias b if there is one
               (arXiv 2408.15664); b has no other effect
    3. weigh   gates g = s of the chosen experts, divided by their sum if
               `renormalise`, times `scale`

  Published routers, by the fields that are not at their defaults:

    DeepSeekMoE, OLMoE, Grok-1, Qwen1.5 and 2   k
    Mixtral, MiniMax-01, Qwen3, Qwen3-Next      renormalise
    gpt-oss                      after; scorer.bias
    sigma-MoE                    score=sigmoid, expert_dropout
    X-MoE                        k=1; scorer=cosine
    DeepSeek-V3 without groups, GLM-4.5, Kimi-K2, MiniMax-M2
                                 score=sigmoid, renormalise, scale; and a bias
    DeepSeek-V4                  score=sqrt_softplus, renormalise, scale=1.5;
                                 its first layers: router hash_first
    Llama 4                      k=1, score=sigmoid, scales_input
    LongCat-Flash                scale=6; and a bias
    Marin's quantile balancing   score=sigmoid, after, renormalise, scale=2.5
    LibMoE's SMoE and "V2"       renormalise (DeepSeek-V2 itself does not)
    LibMoE's SMoE-SG and "V3"    score=sigmoid, renormalise
    LibMoE's XMoE                score=double_softmax, renormalise

  Released code divides by the sum + 1e-20, this router by the sum or 1e-15,
  whichever is larger. Among equal scores the expert with the lower number wins.

  If there is a selection bias, `extra` holds `unbiased_TK`, the experts of the
  k largest scores without bias: DeepSeek-V3's sequence-wise loss counts those
  (arXiv 2412.19437, equation 18).

  Attributes:
    k: routed experts per token.
    score: the function from logits to scores, see `scores.SCORES`.
    renormalise: divide the kept gates by their sum; for k > 1.
    scale: the routed scaling factor, which multiplies the gates.
    after: choose by logits and apply `score` to the kept logits alone (Shazeer
      2017, Mixtral, gpt-oss). With softmax it gives what `renormalise` gives,
      for k > 1; a bias is then added to logits and not to probabilities.
    scales_input: the gate multiplies the expert's input and not its output
      (Llama 4), which differs since experts are not linear; for k=1.
    expert_dropout: probability with which, in training, a token cannot choose
      an expert, each pair by itself (sigma-MoE, arXiv 2310.10837, and its
      released code). A token with fewer than k experts left uses those.
  """

  replays: ClassVar[bool] = True

  score: str = fields.named(scores.SCORES, 'softmax')
  renormalise: bool = False
  scale: float = fields.number(1.0, above=0, at_most=1000)
  after: bool = False
  scales_input: bool = False
  expert_dropout: float = fields.number(0.0, at_least=0, below=1)

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    one = self.k == 1
    scores.check_gates(
      one and self.renormalise,
      num_experts,
      'router.renormalise=True with router.k=1',
      'set router.renormalise=false, or a larger k',
    )
    scores.check_gates(
      one and self.after and self.score.endswith('softmax'),
      num_experts,
      f'router.after=True with router.k=1 and router.score={self.score}',
      'set router.after=false, another score, or a larger k',
    )
    if self.scales_input and self.k > 1:
      raise errors.InputError(
        f'router.scales_input=True with router.k={self.k}: an input is scaled '
        'for one expert only; set router.k=1'
      )

  @property
  def weights_are_independent(self) -> bool:
    sums_kept = self.after and self.score.endswith('softmax')
    return not (self.renormalise or sums_kept)

  @property
  def chooses_by(self) -> str:
    return 'logits' if self.after else self.score

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    score = scores.SCORES[self.score]
    score_TE, prob_TE = score(inputs.logits_TE)
    order_TE = inputs.logits_TE if self.after else score_TE
    choice_TE = inputs.biased(order_TE)
    thins = inputs.training and self.expert_dropout > 0
    if thins:
      noise_TE = noise.uniform(inputs, choice_TE.shape[1], DROPOUT_SALT)
      choice_TE = jnp.where(noise_TE < self.expert_dropout, -jnp.inf, choice_TE)
    best_TK, expert_TK = jax.lax.top_k(self.mask_scores(choice_TE), self.k)
    is_used_TK = best_TK > -jnp.inf if thins else None
    if inputs.replayed is not None:
      expert_TK, is_used_TK = replay.choice(inputs.replayed, expert_TK)
    gate_TK = scores.take(order_TE, expert_TK)
    gate_TK = scores.kept(gate_TK, is_used_TK, scores.LEAST_LOGIT)
    if self.after:
      gate_TK, _ = score(gate_TK)
    gate_TK = scores.kept(gate_TK, is_used_TK)
    if is_used_TK is not None:
      expert_TK = jnp.where(is_used_TK, expert_TK, prob_TE.shape[1])
    if self.renormalise:
      gate_TK = scores.renormalised(gate_TK)
    if self.scale != 1:
      gate_TK = gate_TK * self.scale
    extra = {}
    if self.reports_unbiased(inputs):
      extra['unbiased_TK'] = scores.largest(inputs, order_TE, self.k)
    routing = contract.token_choice(inputs, expert_TK, gate_TK, prob_TE, extra)
    return dataclasses.replace(routing, scales_input=self.scales_input)

  @property
  def fits_uneven_layers(self) -> bool:
    """The second of two softmaxes would give each masked expert a share."""
    return self.score != 'double_softmax'

  def mask_scores(self, choice_TE: jax.Array) -> jax.Array:
    """The scores to choose by, with -inf for experts out of choice: all are in.

    Subclasses override it, to choose within groups of experts.
    """
    return choice_TE

  def reports_unbiased(self, inputs: contract.RouterInput) -> bool:
    """Whether `extra` gets `unbiased_TK`."""
    return inputs.selection_bias_E is not None
