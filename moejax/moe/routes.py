"""Routes: what the router of a layer did with each token, by token and rank.

A `Routing` is a flat list of assignments in any order. Routes have the same
assignments by token, the one with the largest weight first:

    token_A    [0,   1,   2,   0,   1,   2  ]     T=3, E=4, token 2 is padding
    expert_A   [2,   0,   4,   3,   2,   4  ]
    weight_A   [0.2, 0.5, 0.0, 0.6, 0.3, 0.0]
    expert_TK  [[3, 2], [0, 2], [-1, -1]]
    weight_TK  [[0.6, 0.2], [0.5, 0.3], [0, 0]]
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import errors, varying
from moejax.moe import contract
from moejax.moe.replay import NOWHERE


@dataclasses.dataclass(frozen=True)
class RoutesRequest:
  """Asks a model for the routes of its tokens.

  Attributes:
    k: number of experts of a token that are recorded, those with the largest
      weights; None records all.
    logits: whether the logits of the router are recorded too.
    outputs: whether the norms of the experts' outputs and the sum of the routed
      outputs are recorded too. Then every device computes all experts, in the
      stages of `compute.staged`.
    output_gram: whether every expert also computes every token, for the dot
      products of their outputs. This costs the number of experts over that of
      a token's experts, in computation.
    summed: whether a model gives sums over the tokens in place of the routes;
      see `moe.calibration`.
  """

  k: int | None = None
  logits: bool = False
  outputs: bool = False
  output_gram: bool = False
  summed: bool = False

  def __post_init__(self):
    if self.k is not None and self.k < 1:
      raise errors.InputError(
        f'k={self.k} experts of a token cannot be recorded; use 1 or more, or '
        'None for all'
      )

  @property
  def measures_experts(self) -> bool:
    """Whether the outputs of single experts are looked at."""
    return self.outputs or self.output_gram


@flax.struct.dataclass
class Routes:
  """The routes of the tokens of one layer; of N layers: [N, ...].

  K is the `k` of the request. Without it, K is the number of experts of a token
  where that is fixed, and else E, the number of choices of the router.

  Attributes:
    expert_BLK: int32, the experts of each token, in the order of falling
      weights; among equal weights in the router's own order. `NOWHERE` (-1)
      where a token has fewer than K, and for padding.
    weight_BLK: float32, the weight with which the expert's output (or input, if
      the router `scales_input`) is multiplied, after all scaling; 0 for
      `NOWHERE`. The weight of a dropped assignment is the one that it would
      have had.
    dropped_BLK: bool, whether the expert did not compute the token, because it
      had no room.
    entropy_BL: float32, entropy of the router's probabilities over all choices,
      in nats; 0 for padding.
    logits_BLE: float32, the logits that the router saw, `num_logits` of them;
      None unless the request asks for them.
    norm_BLK: float32, L2 norm of the vector that the expert adds to the routed
      output, divided by the weight: that of the expert's output, ||E(h)||, if
      the weight multiplies the output. 0 where the expert computed nothing.
      None unless the request asks for outputs.
    routed_BLD: the sum that the layer adds without its shared experts, in the
      compute type; None unless the request asks for outputs.
    gram_BEE: float32, for each row of the batch the sum over its tokens of the
      dot products of the outputs of each two experts with weights; None unless
      the request asks for it.
  """

  expert_BLK: jax.Array
  weight_BLK: jax.Array
  dropped_BLK: jax.Array
  entropy_BL: jax.Array
  logits_BLE: jax.Array | None = None
  norm_BLK: jax.Array | None = None
  routed_BLD: jax.Array | None = None
  gram_BEE: jax.Array | None = None


def record(
  request: RoutesRequest,
  inputs: contract.RouterInput,
  routing: contract.Routing,
  sent_A: jax.Array,
  norm_A: jax.Array | None = None,
) -> Routes:
  """The routes of the tokens of one device, without gradient.

  Args:
    request: what is recorded.
    inputs: the router's input.
    routing: the router's assignments, before any limit.
    sent_A: bool, whether the assignment was computed.
    norm_A: float32 norms, for `norm_BLK`; None leaves them out.
  """
  routing = jax.lax.stop_gradient(routing)
  prob_TE = routing.prob_TE
  by_rank = _of_list if routing.per_token is None else _of_token_choice
  if request.summed and routing.per_token is not None:
    by_rank = _in_own_order  # sums need no order
  by_token = lambda x: x.reshape(-1, inputs.row_length, *x.shape[1:])
  expert_TK, weight_TK, dropped_TK, norm_TK = by_rank(routing, sent_A, norm_A)
  entropy_T = -jnp.sum(jax.scipy.special.xlogy(prob_TE, prob_TE), axis=-1)
  logits_TE = jax.lax.stop_gradient(inputs.logits_TE)
  routes = Routes(
    by_token(expert_TK),
    by_token(weight_TK),
    by_token(dropped_TK),
    by_token(jnp.where(inputs.valid_T, entropy_T, 0.0)),
    by_token(logits_TE) if request.logits else None,
    None if norm_TK is None else by_token(norm_TK),
  )
  return keep(routes, request.k)


def keep(routes: Routes, k: int | None) -> Routes:
  """The first k ranks of each token, or all; ranks that are missing are empty.

  Args:
    routes: in the order of ranks.
    k: see `RoutesRequest`.
  """
  if k is None:
    return routes
  missing = max(0, k - routes.expert_BLK.shape[2])

  def cut(x_BLK: jax.Array, empty: int) -> jax.Array:
    x_BLK = x_BLK[:, :, :k]
    pad = ((0, 0), (0, 0), (0, missing))
    return jnp.pad(x_BLK, pad, constant_values=empty) if missing else x_BLK

  return dataclasses.replace(
    routes,
    expert_BLK=cut(routes.expert_BLK, NOWHERE),
    weight_BLK=cut(routes.weight_BLK, 0),
    dropped_BLK=cut(routes.dropped_BLK, False),
    norm_BLK=None if routes.norm_BLK is None else cut(routes.norm_BLK, 0),
  )


# expert_TK, weight_TK, dropped_TK, norm_TK
Ranks = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]


def _in_own_order(
  routing: contract.Routing, sent_A: jax.Array, norm_A: jax.Array | None
) -> Ranks:
  """The ranks of a list with K outermost, in the router's own order."""
  num_tokens, num_choices = routing.prob_TE.shape
  by_token = lambda x_A: x_A.reshape(routing.per_token, num_tokens).T
  asked_A = routing.expert_A < num_choices
  return (
    by_token(jnp.where(asked_A, routing.expert_A, NOWHERE)),
    by_token(jnp.where(asked_A, routing.weight_A, 0.0)),
    by_token(asked_A & ~sent_A),
    None if norm_A is None else by_token(norm_A),
  )


def _of_token_choice(
  routing: contract.Routing, sent_A: jax.Array, norm_A: jax.Array | None
) -> Ranks:
  """The ranks of a list with K outermost, `per_token`."""
  num_tokens, num_choices = routing.prob_TE.shape
  by_token = lambda x_A: x_A.reshape(routing.per_token, num_tokens).T
  expert_TK, weight_TK, sent_TK = map(
    by_token, (routing.expert_A, routing.weight_A, sent_A)
  )
  asked_TK = expert_TK < num_choices
  # Empty ranks come last; `argsort` keeps the order of equal keys.
  last_TK = jnp.where(asked_TK, -weight_TK, jnp.inf)
  order_TK = jnp.argsort(last_TK, axis=1, stable=True)
  in_order = lambda x_TK: jnp.take_along_axis(x_TK, order_TK, axis=1)
  asked_TK = in_order(asked_TK)
  return (
    jnp.where(asked_TK, in_order(expert_TK), NOWHERE),
    jnp.where(asked_TK, in_order(weight_TK), 0.0),
    asked_TK & ~in_order(sent_TK),
    None if norm_A is None else in_order(by_token(norm_A)),
  )


def _of_list(
  routing: contract.Routing, sent_A: jax.Array, norm_A: jax.Array | None
) -> Ranks:
  """The ranks of any list; K is the number of choices."""
  num_tokens, num_choices = routing.prob_TE.shape
  asked_A = routing.expert_A < num_choices
  # Assignments to nowhere are queued behind the last token.
  token_A = jnp.where(asked_A, routing.token_A, num_tokens)
  order_A = jnp.lexsort((-routing.weight_A, token_A))
  token_A = token_A[order_A]
  length_T = jnp.bincount(token_A, length=num_tokens + 1)
  first_T = jnp.cumsum(length_T) - length_T
  rank_A = jnp.arange(len(token_A)) - first_T[token_A]

  def by_rank(x_A: jax.Array, empty: int) -> jax.Array:
    none_TK = jnp.full((num_tokens, num_choices), empty, x_A.dtype)
    none_TK = varying.like(none_TK, routing.weight_A)
    return none_TK.at[token_A, rank_A].set(x_A[order_A], mode='drop')

  return (
    by_rank(routing.expert_A, NOWHERE),
    by_rank(routing.weight_A, 0),
    by_rank(asked_A & ~sent_A, False),
    None if norm_A is None else by_rank(norm_A, 0),
  )
