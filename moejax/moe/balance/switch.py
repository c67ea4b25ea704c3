"""Switch Transformer's loss, and its variants in other projects."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts


def _top_1(inputs: contract.RouterInput, routing: contract.Routing):
  num_experts = routing.prob_TE.shape[1]
  first_T1 = counts.first(routing)[:, None]
  hit_TE = first_T1 == jnp.arange(num_experts)
  hit_E = jnp.sum(hit_TE, axis=0, dtype=jnp.float32)
  return hit_E, counts.over_tokens(inputs, routing.prob_TE)


def _multi_hot(inputs: contract.RouterInput, routing: contract.Routing):
  return counts.count(routing), counts.over_tokens(inputs, routing.prob_TE)


def _masked(inputs: contract.RouterInput, routing: contract.Routing):
  del inputs
  return counts.count(routing), counts.gates(routing)


def _of_logits(inputs: contract.RouterInput, routing: contract.Routing):
  prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
  if routing.per_token is None or prob_TE.shape != routing.prob_TE.shape:
    raise errors.InputError(
      'with form=of_logits takes the k largest of a logit for each expert: it '
      'needs a token choice router; use one, or form=multi_hot'
    )
  _, expert_TK = jax.lax.top_k(inputs.logits_TE, routing.per_token)
  hit_TE = (expert_TK[:, :, None] == jnp.arange(prob_TE.shape[1])).any(axis=1)
  hit_E = counts.over_tokens(inputs, hit_TE.astype(jnp.float32))
  return hit_E, counts.over_tokens(inputs, prob_TE)


# (inputs, routing) -> the sums over tokens from which f and P are made, both
# [E].
FORMS = {
  'masked': _masked,
  'multi_hot': _multi_hot,
  'of_logits': _of_logits,
  'top_1': _top_1,
}


# Whether each layer has a loss, or all layers together have one.
LAYERS = ('each', 'together')


@dataclasses.dataclass(frozen=True)
class SwitchLoss(base.Balance):
  """Switch Transformer's loss: alpha * N * sum_i f_i P_i.

  Switch (arXiv 2101.03961, section 2.2, equations 4 to 6): f_i is the share of
  tokens whose first choice is i, P_i the mean probability. Both are of the
  global batch; in the paper they are of the tokens of one core.

  The loss of transformers' Mixtral, Qwen-MoE, gpt-oss and OLMoE classes is
  form='multi_hot' with layers='together'; alpha is the `router_aux_loss_coef`
  of a config.json as it stands. With K experts per token it is K times
  `expert_level` of the tokens of all layers, once, where `expert_level` adds up
  over M layers. Where all layers route alike the two are equal at
  expert_level.alpha = alpha K / M.

  Attributes:
    alpha: the paper's.
    form: what f and P are, with the value when balanced:
      'top_1': Switch's, alpha. Over the batch it is also E^2 times GShard's
        (lingvo, praxis), and X-MoE's where the router gives P at tau_0.
      'multi_hot': f_i is the share of tokens with i among their K choices;
        alpha * K. Flaxformer's for top-k (E^2 mean(f P)) and that of
        transformers' Mixtral and its kin (the sum over the K places).
      'of_logits': as multi_hot, with the softmax of the logits for P and its K
        largest for f, whatever the router makes of the logits: transformers'
        MiniMax-M2 and ERNIE 4.5 classes, which choose with a selection bias or
        by sigmoids and take the loss of Mixtral all the same.
      'masked': as multi_hot, with the mean of the combine weights for P: the
        released EvoMoE's (arXiv 2112.14397). alpha * E when every token goes
        to every expert with weight 1 / E.
    layers: 'each' layer has a loss of its own, and they add up; 'together' is
      one loss with f and P over the tokens of all layers, as transformers has
      it. Its expert i is the i-th of every layer, so an underused expert of one
      layer can make up for an overused one of another: a weaker demand than
      'each'.
  """

  alpha: float = base.loss_weight(0.01)
  form: str = fields.named(FORMS, 'top_1')
  layers: str = fields.named(LAYERS, 'each')

  @property
  def joins_layers(self) -> bool:
    return self.layers == 'together'

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    hit_E, prob_E = FORMS[self.form](inputs, routing)
    return {
      'count_E': hit_E,
      'prob_E': prob_E,
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    f_E, p_E = sums['count_E'] / tokens, sums['prob_E'] / tokens
    return self.alpha * len(f_E) * jnp.sum(f_E * p_E)
