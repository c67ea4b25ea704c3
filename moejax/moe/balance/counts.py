"""Sums over tokens from which several balance parts are computed.

Counts are of the assignments that the router asks for, to any of the E choices,
whether or not the expert has the capacity for them. Padding is in no assignment
and in no sum.
"""

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.moe import contract


def count(routing: contract.Routing) -> jax.Array:
  """Number of assignments of each expert, float32 [E], without gradient."""
  return _sum_by_expert(routing, 1.0)


def gates(routing: contract.Routing) -> jax.Array:
  """The sum of the weights of each expert's assignments, [E].

  The gradient goes through the weights.
  """
  return _sum_by_expert(routing, routing.weight_A)


def over_tokens(inputs: contract.RouterInput, x_TE: jax.Array) -> jax.Array:
  """The sum over tokens that are not padding, [E]; a scalar for x_T."""
  valid_T = inputs.valid_T.reshape(-1, *[1] * (x_TE.ndim - 1))
  return jnp.sum(jnp.where(valid_T, x_TE, 0.0), axis=0)


def tokens(inputs: contract.RouterInput) -> jax.Array:
  """Number of tokens that are not padding, float32."""
  return jnp.sum(inputs.valid_T, dtype=jnp.float32)


def first(routing: contract.Routing) -> jax.Array:
  """The first choice of each token, int32 [T]; E for none.

  Raises:
    InputError: the list is not token choice, so there are no first choices.
  """
  if routing.per_token is None:
    raise errors.InputError(
      'counts first choices, which only token choice has; use a token choice '
      'router'
    )
  return routing.expert_A[: routing.prob_TE.shape[0]]


def extra(routing: contract.Routing, name: str) -> jax.Array:
  """An array that only some routers report.

  Raises:
    InputError: this router does not report it.
  """
  if name not in routing.extra:
    reported = ', '.join(sorted(routing.extra)) or 'nothing'
    raise errors.InputError(
      f'needs {name} from the router, which reports {reported}; use the router '
      'that this balance part belongs to'
    )
  return routing.extra[name]


def by_sequence(
  inputs: contract.RouterInput, routing: contract.Routing
) -> dict[str, jax.Array]:
  """Assignments, probabilities and tokens of each sequence, S in front.

  `choices`, in a model whose layers have different numbers of them, is the
  number of choices of the layer times that of tokens.

  A sequence is a row of the batch. A row into which several documents were
  packed is one sequence.

  Example, rows of 2 tokens, E=2, K=1, the last token is padding:
    expert_A  [0, 0, 1, 2]
    count_E   [[2, 0], [0, 1]]
    tokens    [2, 1]
  """
  sums = {
    'count_E': count_by_sequence(inputs, routing),
    'prob_E': sum_by_sequence(inputs, routing.prob_TE),
    'tokens': jnp.sum(
      inputs.valid_T.reshape(-1, inputs.row_length), axis=1, dtype=jnp.float32
    ),
  }
  if inputs.in_use_E is not None:
    sums['choices'] = sums['tokens'] * jnp.sum(inputs.in_use_E)
  return sums


def count_by_sequence(
  inputs: contract.RouterInput, routing: contract.Routing
) -> jax.Array:
  """Number of assignments of each expert in each sequence, float32 [S, E]."""
  num_tokens, num_experts = routing.prob_TE.shape
  row_A = routing.token_A // inputs.row_length
  zeros_SE = jnp.zeros((num_tokens // inputs.row_length, num_experts))
  # An expert id of E is out of bounds, so it is dropped.
  return zeros_SE.at[row_A, routing.expert_A].add(1.0, mode='drop')


def sum_by_sequence(inputs: contract.RouterInput, x_TE: jax.Array) -> jax.Array:
  """The sums over the tokens of each sequence, [S, E]."""
  valid_SL = inputs.valid_T.reshape(-1, inputs.row_length).astype(jnp.float32)
  x_SLE = x_TE.reshape(*valid_SL.shape, -1)
  return jnp.einsum('SLE,SL->SE', x_SLE, valid_SL)


def _sum_by_expert(
  routing: contract.Routing, value_A: jax.Array | float
) -> jax.Array:
  """The sum of a value over each expert's assignments, float32 [E].

  A scatter-add of 65,536 assignments to 256 experts takes 0.1 ms on a CPU;
  comparing each assignment with each expert takes 60 ms.
  """
  zeros_E = jnp.zeros(routing.prob_TE.shape[1], jnp.float32)
  # An expert id of E is out of bounds, so it is dropped.
  return zeros_E.at[routing.expert_A].add(value_A, mode='drop')
