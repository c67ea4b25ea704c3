"""The contract of routers and dispatchers: their inputs and their results.

    tokens --scorer--> logits_TE --router--> Routing --dispatcher--> rows
    rows --experts--> rows --dispatcher--> tokens

A routing is a flat list of assignments in order of priority, so that token
choice (A = K * T), expert choice (A = E * C) and hashing are one type, and "who
is dropped when an expert is full" is the order of the list.

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

from moejax.core import fields
from moejax.moe.scorers import base as scorers


@flax.struct.dataclass
class Routing:
  """A list of A assignments: "send token t to expert e with weight w".

  Earlier assignments win when an expert has too little room. An expert id of E
  means "send nowhere"; padding tokens are skipped that way.

  Attributes:
    token_A: int32.
    expert_A: int32, in [0, E].
    weight_A: float32.
    prob_TE: float32 probabilities, for balance losses and analysis.
    extra: by name, what the router's own balance losses want to know.
    per_token: static K when the list is token choice, K outermost (assignment a
      is of token a % T), else None. It lets gathers stand in for scatters.
    group_size: static number of consecutive tokens that share one capacity;
      0 means all tokens that the router saw.
    room: static; rows that each expert has for a group, once a dispatcher has
      limited the list to that; None before.
    scales_input: static; the weight multiplies the expert's input, not its
      output (Llama 4). Needs per_token = 1.
    residual_T: coefficient of the token itself in the layer's output.
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
class RouterState:
  """What one balance part keeps of earlier batches, in one layer.

  It lies beside the layer's weights and is saved with them. No gradient reaches
  it, and the optimiser leaves it alone: the part itself replaces it after every
  optimiser step.

  Attributes:
    selection_bias_E: float32, added to the scores for choosing and to nothing
      else; None for a part that has no bias.
    kept: all else that the part keeps, float32 arrays by name.
  """

  selection_bias_E: jax.Array | None = None
  kept: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

  @property
  def needed_bias(self) -> jax.Array:
    """The bias of a part that has one."""
    if self.selection_bias_E is None:
      raise ValueError('this part has no bias of the selection')
    return self.selection_bias_E

  @classmethod
  def of_arrays(cls, arrays: dict[str, jax.Array]) -> 'RouterState':
    """The state from its arrays by name, as they lie beside the weights."""
    kept = dict(arrays)
    return cls(kept.pop('selection_bias_E', None), kept)

  @property
  def arrays(self) -> dict[str, jax.Array]:
    """Its arrays by name."""
    if self.selection_bias_E is None:
      return dict(self.kept)
    return {'selection_bias_E': self.selection_bias_E, **self.kept}


@flax.struct.dataclass
class RouterInput:
  """All that a router, or a balance loss, may look at.

  E counts everything that the router chooses among: the experts with weights
  and, behind them, those without computation (`moe.zero_computation`).

  Attributes:
    logits_TE: float32 scores from the scorer. [T, `router.num_logits(E)`] where
      a router asks for another number.
    valid_T: bool; False marks padding, which is never routed and never counted.
    index_T: int32 place of the token in the global batch. Noise is drawn from
      (key, index), so it depends neither on the mesh nor on micro-batches.
    key: random key of this layer and step; None means evaluation: no noise.
    row_length: tokens of one sequence, static; T is a multiple of it. A router
      in which tokens compete lets those of one sequence compete.
    extra_scores: by name, the scores of the router's `extra_scorers`.
    token_T: int32 vocabulary ids.
    layer: int32, which of the layers with experts this is, from 0.
    steps: float32, training steps taken; for what is annealed.
    selection_bias_E: float32, added to scores for choosing: the sum of what
      the balance parts keep; None where no part keeps one.
    own_state: the state of the balance part that is called; None for routers.
    responses_EE: how strongly experts (second) answer to the router's rows, for
      a balance part that `reads_responses`; else None.
  """

  logits_TE: jax.Array
  valid_T: jax.Array
  index_T: jax.Array
  key: jax.Array | None
  row_length: int = flax.struct.field(pytree_node=False)
  extra_scores: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  token_T: jax.Array | None = None
  layer: jax.Array | int = 0
  steps: jax.Array | float = 0.0
  selection_bias_E: jax.Array | None = None
  own_state: RouterState | None = None
  responses_EE: jax.Array | None = None

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

    For choosing alone (arXiv 2408.15664, equation 3): what an expert's output
    is weighted with stays unbiased.
    """
    score_TE = jax.lax.stop_gradient(score_TE)
    if self.selection_bias_E is None:
      return score_TE
    return score_TE + jax.lax.stop_gradient(self.selection_bias_E)


@dataclasses.dataclass(frozen=True)
class Router(fields.Checked):
  """Chooses experts: the base of all routers. No parameters, no state.

  A router is a frozen dataclass whose fields are its config keys. It gives
  `__call__` and `experts_per_token`; the rest it gives where it differs.

  The class attributes say what kind of router it is, and so what the contract
  suite asks of it.

  Attributes:
    is_learned: whether scores reach the routing, as choices or as weights.
    experts_are_alike: whether renumbering the experts renumbers the routing;
      not where a number is a group, a code or a place in a table.
    tokens_compete: whether the tokens of a sequence compete for experts, be it
      in training alone; else each token is routed by itself.
    follows_selection_bias: whether a bias can bring an expert more tokens.
  """

  is_learned: ClassVar[bool] = True
  experts_are_alike: ClassVar[bool] = True
  tokens_compete: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = True

  def __call__(self, inputs: RouterInput) -> Routing:
    raise NotImplementedError

  @property
  def experts_per_token(self) -> float:
    """Experts that a token is computed by, on average: for counting FLOPs."""
    raise NotImplementedError

  def check(self, num_experts: int) -> None:
    """Raises InputError if it cannot choose among so many experts."""

  def shrunk(self, num_experts: int) -> 'Router':
    """The same router for a laptop's few experts."""
    del num_experts
    return self

  def num_logits(self, num_experts: int) -> int:
    """Logits that it wants for so many experts."""
    return num_experts

  def extra_scorers(
    self, num_experts: int
  ) -> dict[str, tuple[scorers.Scorer, int]]:
    """Scorers beside the layer's own, by name, with the scores each gives.

    Their scores reach the router as `extra_scores[name]` of its input.
    """
    del num_experts
    return {}

  def prepare(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array | None
  ) -> jax.Array:
    """What the scorers see in place of `x_TD`: for noise on the input."""
    del index_T, key
    return x_TD

  @property
  def weights_are_independent(self) -> bool:
    """Whether a chosen expert's weight does not depend on the other choices."""
    return False

  @property
  def causal(self) -> bool:
    """Whether a token's experts are independent of later tokens."""
    return True

  @property
  def counts_steps(self) -> bool:
    """Whether it asks for `inputs.steps`; else steps are not counted."""
    return False

  @property
  def frozen_scorers(self) -> dict[str, int]:
    """The extra scorers whose weights stay as they are from a step on.

    By name, the step. A router that names one must set `counts_steps`.
    """
    return {}


class Dispatcher(Protocol):
  """Moves tokens to rows grouped by expert, and back.

  Rows of expert 0 come first, then of expert 1, and so on; `size_E` says how
  many each has, padding rows (zeros) included. `note` is whatever `combine`
  needs; `note.row_A` is the row of each assignment, R where it got none.
  """

  @property
  def equal_groups(self) -> bool:
    """Whether every expert has the same number of rows, R / E."""
    ...

  def check(self, num_experts: int, num_choices: int) -> None:
    """Raises InputError if its numbers do not fit so many experts.

    Args:
      num_experts: with weights.
      num_choices: E, those without computation included.
    """
    ...

  def shrunk(self, num_experts: int) -> 'Dispatcher':
    """The same for a model that is shrunk to so many experts."""
    ...

  def limit(
    self, routing: Routing, num_experts: int, training: bool
  ) -> Routing:
    """The routing with nowhere in place of what it drops.

    Args:
      routing: of all E choices.
      num_experts: how many of them, from the first, have weights.
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

  An expert id of E (`prob_TE.shape[1]`) names none. Capacity is shared by the
  tokens of one sequence: a group that were a shard of the batch would make the
  result depend on mesh and micro-batches.
  """
  valid_T = inputs.valid_T
  num_tokens, k = expert_TK.shape
  nowhere = prob_TE.shape[1]
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
