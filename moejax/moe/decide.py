"""Which experts compute which tokens: `route`, and `observe` of the result.

They are pure functions on one device, steps 1 to 3 and 5 of `moe.layer`.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import errors, scopes, shapes, table
from moejax.moe import (
  balance,
  contract,
  feed_forward,
  replay,
  routing_shapes,
  stats,
  uneven,
)
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import PreviousLayer, Record, TokenInfo
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers.base import ScorerInput
from moejax.moe.sharded import LayerWeights


@flax.struct.dataclass
class Decision:
  """The routing of some tokens, and the input that it was made from.

  Attributes:
    router_input: the input of the router, of balance parts and of statistics.
    routing: the router's assignments, before any limit.
    limited: the same assignments, those that the dispatcher drops sent nowhere.
    state_TR: float32 state that the scorer hands to the next layer's scorer.
  """

  router_input: contract.RouterInput
  routing: contract.Routing
  limited: contract.Routing
  state_TR: jax.Array


def extra_scorers(
  config: MoEConfig, key: jax.Array, width: int, std: float
) -> nnx.Dict:
  """The weights of the router's further scorers, by scorer.

  Args:
    config: of the layer.
    key: random key.
    width: D.
    std: standard deviation of the matrices at the start.
  """
  scorers = config.router.extra_scorers(config.num_choices)
  return nnx.Dict({
    name: nnx.Dict(scorer.init(jax.random.fold_in(key, i), width, num, std))
    for i, (name, (scorer, num)) in enumerate(scorers.items())
  })


@scopes.part('router')
def route(
  config: MoEConfig,
  weights: LayerWeights,
  x_TD: jax.Array,
  tokens: TokenInfo,
  *,
  previous: PreviousLayer | None = None,
  key: jax.Array | None = None,
  layer: jax.Array | int = 0,
) -> Decision:
  """Decides which experts compute which tokens: steps 1 to 3, on one device.

  Args:
    config: of the layer.
    weights: of the layer; those of all experts, if a scorer reads them.
    x_TD: token vectors of T = B * L tokens, sequence after sequence.
    tokens: the same tokens, by sequence: [B, L].
    previous: of the layer before; None stands for `no_previous_layer`.
    key: random key of this layer and step; None is evaluation, without noise.
    layer: number of the layer among those with experts.
  """
  rows, row_length = tokens.valid_BL.shape
  shapes.dims('T D', x_TD, T=rows * row_length)
  if previous is None:
    previous = feed_forward.no_previous_layer(config, rows, row_length)
  flat = lambda x: x.reshape(rows * row_length, *x.shape[2:])
  index_T, token_T = flat(tokens.index_BL), flat(tokens.token_BL)
  x_TD = config.router.scorer_input(x_TD.astype(jnp.float32), index_T, key)

  def input_of(scorer, state_TR=None):
    experts = weights.experts if scorer.reads_experts else {}
    return ScorerInput(x_TD, token_T, experts, state_TR)

  state_TR = flat(previous.state_BLR)
  main_input = input_of(config.scorer, state_TR)
  if config.scorer.state_width:
    state_TR = config.scorer.state(weights.scorer, main_input)
  logits_TE = config.scorer(weights.scorer, main_input)
  scorers = config.router.extra_scorers(config.num_choices)
  extra_scores = {
    name: scorer(weights.extra_scorers[name], input_of(scorer))
    for name, (scorer, _) in scorers.items()
  }
  if weights.residual_EE is not None:
    logits_TE = logits_TE + jnp.dot(
      flat(previous.logits_BLE),
      weights.residual_EE,
      precision=jax.lax.Precision.HIGHEST,
    )
  router_input = contract.RouterInput(
    logits_TE=logits_TE,
    valid_T=flat(tokens.valid_BL),
    index_T=index_T,
    key=key,
    row_length=row_length,
    row_axes=tokens.row_axes,
    extra_scores=extra_scores,
    token_T=token_T,
    layer=layer,
    steps=weights.router_state.get('router', {}).get('steps', jnp.zeros(())),
    selection_bias_E=balance.selection_bias(_balance_states(weights)),
    responses_EE=weights.responses_EE,
    replayed=jax.tree.map(flat, tokens.replayed),
  )
  in_use_NE = config.used_choices
  if in_use_NE is not None:
    router_input = uneven.masked(config.router, router_input, in_use_NE)
  routing = choose(config.router, router_input, config.num_choices)
  _check_routing(config, routing, rows * row_length)
  routing = uneven.limited(routing, router_input)
  limited = config.dispatcher.limit(
    _without_dropped(routing, router_input.replayed),
    config.num_experts,
    router_input.training,
  )
  return Decision(router_input, routing, limited, state_TR)


def choose(
  router: contract.Router, inputs: contract.RouterInput, num_choices: int
) -> contract.Routing:
  """The router's assignments, or those of `inputs.replayed`.

  A router without weights for another choice than its own can replay recorded
  weights alone. Probabilities, and what balance parts read besides, are then
  those of its own choice.

  Args:
    router: of the layer.
    inputs: its input.
    num_choices: E, number of its choices.

  Raises:
    InputError: a replay that the router cannot follow.
  """
  replayed = inputs.replayed
  if replayed is None:
    return router(inputs)
  k = replayed.expert_TK.shape[1]
  if k > num_choices:
    raise errors.InputError(
      f'the replayed routes have {k} experts per token, but the router has '
      f'{num_choices} to choose from'
    )
  if router.replays:
    return router(inputs)
  if replayed.weight_TK is None:
    raise errors.InputError(
      f'router={table.name_of(ROUTERS, router)} weighs no experts but those '
      'that it chooses itself; replay the recorded weights too'
    )
  own = router(dataclasses.replace(inputs, replayed=None))
  routing = contract.token_choice(
    inputs, replayed.ids, replayed.weight_TK, own.prob_TE, own.extra
  )
  return dataclasses.replace(
    routing, scales_input=own.scales_input, residual_T=own.residual_T
  )


def _check_routing(
  config: MoEConfig, routing: contract.Routing, num_tokens: int
) -> None:
  """Raises InputError if a router has returned something else than it should.

  Args:
    config: of the layer.
    routing: what its router has returned.
    num_tokens: T.
  """
  name = type(config.router).__name__  # one that wraps another has no other
  if not isinstance(routing, contract.Routing):
    raise errors.InputError(
      f'the router {name} must return a Routing, such as that of '
      f'contract.token_choice, not {type(routing).__name__}'
    )
  a = routing
  try:
    routing_shapes.check_list(
      a.token_A,
      a.expert_A,
      a.weight_A,
      a.prob_TE,
      (num_tokens, config.num_choices),
    )
  except errors.InputError as e:
    raise errors.InputError(f'what the router {name} returns: {e}') from None


def _without_dropped(
  routing: contract.Routing, replayed: replay.Replayed | None
) -> contract.Routing:
  """The routing, with assignments that the record dropped sent nowhere."""
  if replayed is None or replayed.dropped_TK is None:
    return routing
  dropped_A = replayed.dropped_TK.T.reshape(-1)
  nowhere = routing.prob_TE.shape[1]
  expert_A = jnp.where(dropped_A, nowhere, routing.expert_A)
  return dataclasses.replace(routing, expert_A=expert_A)


@scopes.part('balance')
def observe(
  config: MoEConfig,
  weights: LayerWeights,
  decision: Decision,
  sent_A: jax.Array,
  previous_TE: jax.Array | None = None,
) -> Record:
  """Sums for the balance parts, and statistics, over these tokens: step 5.

  Args:
    config: of the layer.
    weights: of the layer.
    decision: from `route`.
    sent_A: bool, whether the assignment was computed.
    previous_TE: bool, the choices in the layer before, if there is one.
  """
  router_input, routing = decision.router_input, decision.routing
  statistics = stats.observe(router_input, routing, sent_A, previous_TE)
  logits_TE = config.scorer.balance_logits(
    weights.scorer, router_input.logits_TE
  )
  if logits_TE is not None and logits_TE.shape == routing.prob_TE.shape:
    routing = dataclasses.replace(routing, prob_TE=jax.nn.softmax(logits_TE))
  sums = balance.observe(
    config.balance, router_input, routing, _balance_states(weights)
  )
  return Record(sums, statistics)


def _balance_states(weights: LayerWeights) -> balance.States:
  """The states of the balance parts, by name."""
  return {
    name: contract.RouterState.of_arrays(arrays)
    for name, arrays in weights.router_state.items()
    if name != 'router'
  }
