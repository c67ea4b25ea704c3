"""The contract of routers and dispatchers: their inputs and their results.

    tokens --scorer--> logits_TE --router--> Routing --dispatcher--> rows
    rows --experts--> rows --dispatcher--> tokens

A routing is a flat list of assignments in order of priority. So token choice
(A = K * T), expert choice (A = E * C) and hashing have one type, and the order
of the list decides which assignments a full expert drops: the later ones.

Example, T=3 tokens, E=4 experts, K=2, the third token is padding:

    token_A   [0,   1,   2,   0,   1,   2  ]    K outermost: every first choice
    expert_A  [2,   0,   4,   3,   2,   4  ]    outranks every second choice;
    weight_A  [0.6, 0.5, 0.0, 0.2, 0.3, 0.0]    expert 4 = E means "nowhere"
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import fields
from moejax.moe import replay, routing_shapes
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.router_state import RouterState
from moejax.moe.scorers import base as scorers


@flax.struct.dataclass
class Routing:
  """A list of A assignments: "send token t to expert e with weight w".

  Earlier assignments win when an expert has too little room. An expert id of E
  means "send nowhere"; padding tokens are skipped that way.

  Attributes:
    token_A: int32, the token of each assignment, in [0, T).
    expert_A: int32, its expert, in [0, E].
    weight_A: float32, its weight in the sum over a token's experts.
    prob_TE: float32 probabilities, for balance losses and analysis.
    extra: further arrays by name, float32 with tokens in front, for the balance
      parts that belong to this router.
    per_token: static; K of a token-choice list with K outermost, in which
      assignment a is of token a % T; None for any other list. With it,
      permutations are gathers instead of scatters.
    group_size: static number of consecutive tokens that share one capacity;
      0 means all tokens that the router saw.
    room: static; rows that each expert has for a group, set by a dispatcher
      that has limited the list to so many; else None.
    scales_input: static; the weight multiplies the expert's input, not its
      output (Llama 4). Needs per_token = 1.
    residual_T: float32, the coefficient with which the token itself is added to
      the layer's output; None adds nothing.
  """

  token_A: jax.Array
  expert_A: jax.Array
  weight_A: jax.Array
  prob_TE: jax.Array
  extra: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  per_token: int | None = flax.struct.field(pytree_node=False, default=None)
  group_size: int = flax.struct.field(pytree_node=False, default=0)
  room: int | None = flax.struct.field(pytree_node=False, default=None)
  scales_input: bool = flax.struct.field(pytree_node=False, default=False)
  residual_T: jax.Array | None = None


@flax.struct.dataclass
class RouterInput:
  """All that a router, or a balance part, may look at.

  E is the number of choices: the experts with weights and, behind them, those
  without computation (`moe.zero_computation`).

  Attributes:
    logits_TE: float32 scores from the scorer; [T, `router.num_logits(E)`] for a
      router that asks for another number than E.
    valid_T: bool; False marks padding, which is never routed and never counted.
    index_T: int32 position of the token in the global batch. Noise is drawn
      from (key, index), so it depends neither on the mesh nor on micro-batches.
    key: random key of this layer and step; None means evaluation: no noise.
    row_length: tokens of one sequence, static; T is a multiple of it. A router
      in which tokens compete lets those of one sequence compete. Where a
      sequence is split over devices, tokens of the piece of it that is here.
    row_axes: static; the mesh axes over which each sequence is split.
    extra_scores: by name, the scores of the router's `extra_scorers`.
    token_T: int32 vocabulary ids.
    layer: int32, which of the layers with experts this is, from 0.
    steps: float32, optimiser steps taken, for routers with a schedule; 0 unless
      the router `counts_steps`.
    selection_bias_E: float32, the sum of the balance parts' selection biases,
      which routers add to the scores by which they choose; None where no part
      has one. Interventions set one for each token, [T, E].
    own_state: the state of the balance part that is called; None for routers.
    responses_EE: float32, how strongly each expert (second index) responds to
      each of the router's rows (first), for a balance part that
      `reads_responses`; else None.
    in_use_E: bool, the choices that the layer has, in a model whose layers have
      different numbers of experts; None: all. See `moe.uneven`.
    replayed: a recorded choice that takes the place of the router's own; None
      for none. See `Router.replays`.
  """

  logits_TE: jax.Array
  valid_T: jax.Array
  index_T: jax.Array
  key: jax.Array | None
  row_length: int = flax.struct.field(pytree_node=False)
  row_axes: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
  extra_scores: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  token_T: jax.Array | None = None
  layer: jax.Array | int = 0
  steps: jax.Array | float = 0.0
  selection_bias_E: jax.Array | None = None
  own_state: RouterState | None = None
  responses_EE: jax.Array | None = None
  in_use_E: jax.Array | None = None
  replayed: replay.Replayed | None = None

  @property
  def training(self) -> bool:
    """Whether this is a training step."""
    return self.key is not None

  @property
  def noise_key(self) -> jax.Array:
    """The key, of a training step alone."""
    if self.key is None:
      raise ValueError('an evaluation has no noise')
    return self.key

  @property
  def needed_state(self) -> RouterState:
    """`own_state`, for a balance part that keeps one."""
    if self.own_state is None:
      raise ValueError('a router has no state of its own')
    return self.own_state

  def biased(self, score_TE: jax.Array) -> jax.Array:
    """Scores plus the selection bias, if there is one, without gradient.

    Routers choose by them and by nothing else (arXiv 2408.15664, equation 3):
    the weights of experts' outputs are taken from the scores without bias.
    """
    score_TE = jax.lax.stop_gradient(score_TE)
    if self.selection_bias_E is None:
      return score_TE
    return score_TE + jax.lax.stop_gradient(self.selection_bias_E)


@dataclasses.dataclass(frozen=True)
class Router(fields.Checked):
  """Chooses experts: the base of all routers. No parameters, no state.

  A router is a frozen dataclass whose fields are its config keys. It must
  define `__call__` and `experts_per_token`, and overrides the other methods
  where the defaults do not hold for it.

  The class attributes state properties of the router, which the contract suite
  tests.

  Attributes:
    is_learned: whether scores reach the routing, as choices or as weights.
    experts_are_alike: whether renumbering the experts renumbers the routing;
      False where an expert's number stands for a group, a code or a place in a
      table.
    tokens_compete: whether the tokens of a sequence compete for experts, even
      if only in training; else each token is routed by itself.
    follows_selection_bias: whether a bias can bring an expert more tokens.
    reads_token_ids: whether it chooses by vocabulary ids, which the patches of
      an image do not have.
    replays: whether `__call__` weighs the experts of `inputs.replayed` in place
      of its own. Any router can replay routes with recorded weights.
    keeps_experts: why no expert can be removed from a trained layer, as the end
      of a sentence; '' if removing an expert leaves the choice among the others
      as it is without that expert.
  """

  is_learned: ClassVar[bool] = True
  experts_are_alike: ClassVar[bool] = True
  tokens_compete: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = True
  reads_token_ids: ClassVar[bool] = False
  replays: ClassVar[bool] = False
  keeps_experts: ClassVar[str] = ''

  def __call__(self, inputs: RouterInput) -> Routing:
    """The assignments of these tokens; padding goes nowhere."""
    raise NotImplementedError

  @property
  def experts_per_token(self) -> float:
    """Average number of experts that compute a token, for counting FLOPs."""
    raise NotImplementedError

  def check(self, num_experts: int) -> None:
    """Raises InputError if this router cannot choose among E experts."""

  def shrunk(self, num_experts: int) -> 'Router':
    """The router for a model that is shrunk to `num_experts` experts."""
    del num_experts
    return self

  @property
  def chooses_by(self) -> str:
    """The scores that a selection bias is added to.

    'logits', or a name in `routers.scores.SCORES`; '' for other scores or none.
    """
    return ''

  def num_logits(self, num_experts: int) -> int:
    """Number of logits per token that the router reads, for E experts."""
    return num_experts

  def expert_of_logit(self, num_experts: int) -> np.ndarray:
    """The expert of each logit, int [`num_logits`]; -1 for a logit of none."""
    return np.arange(num_experts)

  @property
  def expert_needs(self) -> ExpertNeeds:
    """What must stay when experts are removed."""
    return ExpertNeeds()

  def with_groups(self, num_groups: int) -> 'Router':
    """The router after whole groups are removed; `expert_needs` allows it."""
    raise NotImplementedError(f'{num_groups} groups of {type(self).__name__}')

  def extra_scorers(
    self, num_experts: int
  ) -> dict[str, tuple[scorers.Scorer, int]]:
    """Further scorers besides the layer's own.

    Their scores reach the router as `extra_scores[name]` of its input.

    Returns:
      By name, the scorer and the number of scores that it gives a token.
    """
    del num_experts
    return {}

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array | None
  ) -> jax.Array:
    """The token vectors that scorers read, [T, D]: `x_TD`, or with noise on it.

    Args:
      x_TD: float32 token vectors.
      index_T: int32 position of the token in the global batch.
      key: random key of this layer and step; None means evaluation: no noise.
    """
    del index_T, key
    return x_TD

  @property
  def weights_are_independent(self) -> bool:
    """Whether a chosen expert's weight does not depend on the other choices."""
    return False

  @property
  def fits_uneven_layers(self) -> bool:
    """Whether logits and a bias of -1e30 take an expert out of the choice."""
    return not (self.tokens_compete or self.keeps_experts)

  @property
  def reads_rows(self) -> bool:
    """Whether the router must see all tokens of a sequence, or its length."""
    return self.tokens_compete

  @property
  def causal(self) -> bool:
    """Whether a token's experts are independent of later tokens."""
    return True

  @property
  def counts_steps(self) -> bool:
    """Whether the router reads `inputs.steps`; else steps are not counted."""
    return False

  @property
  def frozen_scorers(self) -> dict[str, int]:
    """By name of an extra scorer, the step from which its weights are frozen.

    A router that names one must set `counts_steps`.
    """
    return {}


class Dispatcher(Protocol):
  """Moves tokens to rows grouped by expert, and back.

  The rows of expert 0 come first, then those of expert 1, and so on; `size_E`
  is the number of rows of each, padding rows (zeros) included. `note` holds
  what `combine` needs to undo `dispatch`; `note.row_A` is the row of each
  assignment, or R if the assignment has no row.
  """

  @property
  def equal_groups(self) -> bool:
    """Whether every expert has the same number of rows, R / E."""
    ...

  def check(self, num_experts: int, num_choices: int) -> None:
    """Raises InputError if the dispatcher's fields do not fit the experts.

    Args:
      num_experts: number of experts with weights.
      num_choices: E, experts without computation included.
    """
    ...

  def shrunk(self, num_experts: int) -> 'Dispatcher':
    """The dispatcher for a model that is shrunk to `num_experts` experts."""
    ...

  def limit(
    self, routing: Routing, num_experts: int, training: bool
  ) -> Routing:
    """The routing, with dropped assignments sent nowhere (expert id E).

    Args:
      routing: of all E choices.
      num_experts: number of choices with weights, which come first.
      training: whether this is a training step.
    """
    ...

  def dispatch(
    self,
    x_TD: jax.Array,
    routing: Routing,
    num_experts: int,
    row_multiple: int = 1,
  ) -> tuple[jax.Array, jax.Array, Any]:
    """Rows for the experts.

    Returns:
      x_RD, size_E and a note. Each group starts at a multiple of
      `row_multiple`, which the grouped matmul asks for.
    """
    ...

  def combine(
    self, y_RD: jax.Array, routing: Routing, note: Any, num_tokens: int
  ) -> jax.Array:
    """out_TD: for each token the weighted sum of its rows."""
    ...


def token_choice(
  inputs: RouterInput,
  expert_TK: jax.Array,
  weight_TK: jax.Array,
  prob_TE: jax.Array,
  extra: dict[str, jax.Array] | None = None,
) -> Routing:
  """A routing in which every token names its K experts, best first.

  Padding is sent nowhere. The tokens of one sequence share a capacity: if the
  tokens of a shard did, the result would depend on mesh and micro-batches.

  Args:
    inputs: the router's, for padding, the length of a sequence and a replay.
    expert_TK: experts of each token; E (`prob_TE.shape[1]`) is nowhere.
    weight_TK: float32 weights of these experts.
    prob_TE: float32 probabilities; each row sums to 1.
    extra: see `Routing`.
  """
  valid_T = inputs.valid_T
  num_tokens = len(valid_T)
  routing_shapes.check_choice(expert_TK, weight_TK, prob_TE, num_tokens)
  k, nowhere = expert_TK.shape[1], prob_TE.shape[1]
  if inputs.replayed is not None:
    expert_TK = jnp.where(inputs.replayed.is_used, expert_TK, nowhere)
    weight_TK = replay.weights(inputs.replayed, weight_TK)
  expert_TK = jnp.where(valid_T[:, None], expert_TK, nowhere)
  weight_TK = jnp.where(valid_T[:, None], weight_TK, 0.0)
  return Routing(
    token_A=jnp.tile(jnp.arange(num_tokens, dtype=jnp.int32), k),
    expert_A=expert_TK.T.reshape(-1).astype(jnp.int32),
    weight_A=weight_TK.T.reshape(-1),
    prob_TE=prob_TE,
    extra=extra or {},
    per_token=k,
    group_size=inputs.row_length,
  )
