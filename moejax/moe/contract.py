"""What a router gets and gives, and what a dispatcher promises.

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

from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class RouterInput:
  """All that a router may look at.

  Attributes:
    logits_TE: float32 scores from the scorer.
    valid_T: bool; False marks padding, which is never routed and never counted.
    index_T: int32 place of the token in the global batch. Noise is drawn from
      (key, index), so it depends neither on the mesh nor on micro-batches.
    key: random key of this layer and step; None means "no noise" (evaluation).
    row_length: tokens of one sequence, static; T is a multiple of it.
  """

  logits_TE: jax.Array
  valid_T: jax.Array
  index_T: jax.Array
  key: jax.Array | None
  row_length: int = flax.struct.field(pytree_node=False)


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
    per_token: static K when the list is token choice, K outermost (assignment a
      is of token a % T), else None. It lets gathers stand in for scatters.
    group_size: static number of consecutive tokens that share one capacity;
      0 means all tokens that the router saw.
  """

  token_A: jax.Array
  expert_A: jax.Array
  weight_A: jax.Array
  prob_TE: jax.Array
  per_token: int | None = flax.struct.field(pytree_node=False, default=None)
  group_size: int = flax.struct.field(pytree_node=False, default=0)


class Router(Protocol):
  """Chooses experts. A frozen dataclass: no parameters, no state.

  A router's fields are its config keys. `check` is called once, when a model is
  built. Optional: `shrunk(num_experts)`, the same router for a laptop's few
  experts, where its fields must change for that.
  """

  def __call__(self, given: RouterInput) -> Routing: ...

  def check(self, num_experts: int) -> None:
    """Raises InputError if it cannot choose among so many experts."""
    ...

  @property
  def experts_per_token(self) -> float:
    """Experts that a token is computed by, on average: for counting FLOPs."""
    ...


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
  given: RouterInput,
  expert_TK: jax.Array,
  weight_TK: jax.Array,
  prob_TE: jax.Array,
) -> Routing:
  """A routing in which every token names its K experts, best first.

  Capacity is shared by the tokens of one sequence: a group that were a shard of
  the batch would make the result depend on mesh and micro-batches.
  """
  valid_T = given.valid_T
  num_tokens, k = expert_TK.shape
  nowhere = prob_TE.shape[1]
  expert_TK = jnp.where(valid_T[:, None], expert_TK, nowhere)
  weight_TK = jnp.where(valid_T[:, None], weight_TK, 0.0)
  return Routing(
    token_A=jnp.tile(jnp.arange(num_tokens, dtype=jnp.int32), k),
    expert_A=expert_TK.T.reshape(-1).astype(jnp.int32),
    weight_A=weight_TK.T.reshape(-1),
    prob_TE=prob_TE,
    per_token=k,
    group_size=given.row_length,
  )


def uniform(given: RouterInput, num: int) -> jax.Array:
  """Uniform noise [T, num] in [0, 1), the same on any mesh."""
  draw = lambda i: jax.random.uniform(
    jax.random.fold_in(given.key, i), (num,), jnp.float32
  )
  return jax.vmap(draw)(given.index_T)
