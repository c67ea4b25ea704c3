"""Checks of what a router returns, while tracing: free at run time."""

import jax

from moejax.core import errors


def check_choice(
  expert_TK: jax.Array,
  weight_TK: jax.Array,
  prob_TE: jax.Array,
  num_tokens: int,
) -> None:
  """Checks the arrays from which `contract.token_choice` makes a routing.

  Args:
    expert_TK: experts of each token.
    weight_TK: their weights.
    prob_TE: probabilities of all experts.
    num_tokens: T.

  Raises:
    InputError: a shape is another one. Example: weight_TK is [64], but must be
      [T, K] = [64, 2]
  """
  k, num_experts = _last(expert_TK), _last(prob_TE)
  _check('expert_TK', expert_TK, '[T, K]', (num_tokens, k))
  _check('weight_TK', weight_TK, '[T, K]', (num_tokens, k))
  _check('prob_TE', prob_TE, '[T, E]', (num_tokens, num_experts))


def check_list(
  token_A: jax.Array,
  expert_A: jax.Array,
  weight_A: jax.Array,
  prob_TE: jax.Array,
  sizes: tuple[int, int],
) -> None:
  """Checks the arrays of a routing.

  Args:
    token_A: the token of each assignment.
    expert_A: its expert.
    weight_A: its weight.
    prob_TE: probabilities of all experts.
    sizes: T and E.

  Raises:
    InputError: a shape is another one, or an id is no integer.
  """
  _check('prob_TE', prob_TE, '[T, E]', sizes)
  size = token_A.size
  for name, array in (('token_A', token_A), ('expert_A', expert_A)):
    _check(name, array, '[A]', (size,))
    if array.dtype != 'int32':
      raise errors.InputError(f'{name} is {array.dtype}, but must be int32')
  _check('weight_A', weight_A, '[A]', (size,))


def _last(array: jax.Array) -> int:
  return array.shape[-1] if array.ndim else 0


def _check(
  name: str, array: jax.Array, dims: str, want: tuple[int, ...]
) -> None:
  if array.shape != want:
    raise errors.InputError(
      f'{name} is {[*array.shape]}, but must be {dims} = {[*want]}'
    )
