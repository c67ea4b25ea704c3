"""A router that returns arrays of wrong shapes is told which, in a line."""

import dataclasses
import re

import jax.numpy as jnp
import pytest

from moejax.core import errors
from moejax.moe import contract, routing_shapes

T, K, E = 6, 2, 4
INPUTS = contract.RouterInput(
  logits_TE=jnp.zeros((T, E)),
  valid_T=jnp.ones(T, bool),
  index_T=jnp.arange(T),
  key=None,
  row_length=T,
)
RIGHT = {
  'expert_TK': jnp.zeros((T, K), jnp.int32),
  'weight_TK': jnp.ones((T, K)),
  'prob_TE': jnp.full((T, E), 1 / E),
}


@pytest.mark.parametrize(
  ('name', 'shape', 'words'),
  [
    ('weight_TK', (T,), 'weight_TK is [6], but must be [T, K] = [6, 2]'),
    ('weight_TK', (T, 1), 'weight_TK is [6, 1], but must be [T, K] = [6, 2]'),
    ('expert_TK', (K, T), 'expert_TK is [2, 6], but must be [T, K] = [6, 6]'),
    ('expert_TK', (), 'expert_TK is [], but must be [T, K] = [6, 0]'),
    ('prob_TE', (E,), 'prob_TE is [4], but must be [T, E] = [6, 4]'),
  ],
)
def test_token_choice_refuses_arrays_of_other_shapes(name, shape, words):
  assert contract.token_choice(INPUTS, **RIGHT).expert_A.shape == (T * K,)
  arrays = {**RIGHT, name: jnp.zeros(shape, RIGHT[name].dtype)}
  with pytest.raises(errors.InputError, match=f'^{re.escape(words)}'):
    contract.token_choice(INPUTS, **arrays)


@pytest.mark.parametrize(
  ('name', 'array', 'words'),
  [
    ('prob_TE', jnp.zeros((T, E + 1)), 'prob_TE is [6, 5], but must be [T, E]'),
    ('weight_A', jnp.zeros(T), 'weight_A is [6], but must be [A] = [12]'),
    ('expert_A', jnp.zeros(T * K), 'expert_A is float32, but must be int32'),
  ],
)
def test_a_routing_made_by_hand_is_checked(name, array, words):
  routing = contract.token_choice(INPUTS, **RIGHT)
  arrays = {
    field: getattr(routing, field)
    for field in ('token_A', 'expert_A', 'weight_A', 'prob_TE')
  }
  routing_shapes.check_list(**arrays, sizes=(T, E))
  changed = dataclasses.replace(routing, **{name: array})
  arrays[name] = getattr(changed, name)
  with pytest.raises(errors.InputError, match=f'^{re.escape(words)}'):
    routing_shapes.check_list(**arrays, sizes=(T, E))
