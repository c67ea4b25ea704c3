"""What is known of a smaller model before its experts are chosen."""

import dataclasses

import numpy as np
import pytest
from helpers import expert_statistics, tiny

from moejax.compress import METHODS
from moejax.convert import load
from moejax.core import errors, trees
from moejax.moe.balance import BALANCE
from moejax.moe.routers import ROUTERS
from moejax.run.calibration_text import Collected
from moejax.run.full_model import FullModel

CONFIG = tiny.model_config(moe={'num_experts': 8})
LAYERS, EXPERTS = 2, 8


def full(config=CONFIG):
  shapes = load.shapes(config)
  leaves = trees.leaves(tiny.draw(shapes))
  return FullModel(config, leaves.__getitem__, shapes)


def with_moe(config=CONFIG, **changes):
  return dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, **changes)
  )


def made(model, method, keep, score_NE):
  """The config of the smaller model of experts with these scores."""
  statistics = dataclasses.replace(
    expert_statistics.random(LAYERS, EXPERTS),
    **dict.fromkeys(
      ('easy_ep_NE', 'gate_token_NE', 'gate_norm_NE', 'gate_NE', 'norm_NE')
      + ('count_NE',),
      score_NE,
    ),
  )
  collected = Collected({'text': statistics}, {'text': 1.0}, {}, '', 0)
  selection = model.select(method, keep, collected, seed=0)
  return model.smaller(method, selection)[0].config


# The first has layers that keep other numbers, if the method may do so.
SCORES = {
  'of one expert': np.vstack([[1, *[1e-6] * 7], [1.0] * 8]),
  'equal': np.ones((LAYERS, EXPERTS)),
}


@pytest.mark.parametrize('name', METHODS)
def test_what_is_expected_of_a_method_is_what_it_makes(name):
  """To the config where layers are equal, and else that they are not."""
  model, method = full(), METHODS[name]
  for keep in (3, EXPERTS):
    expected = model.expected(method, keep)
    found = [made(model, method, keep, score) for score in SCORES.values()]
    uneven = [bool(config.moe.experts_by_layer) for config in found]
    assert bool(expected.moe.experts_by_layer) == any(uneven)
    if not any(uneven):
      assert found == [expected, expected]
  # One that removes experts by one budget; M-SMoE's router keeps all its rows.
  has_budget = name == 'easy_ep_global'
  expected = model.expected(method, 3).moe
  assert expected.experts_by_layer == ((2, EXPERTS) if has_budget else ())


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'router': ROUTERS['sinkhorn']()}, 'router=sinkhorn cannot leave places'),
    ({'balance': (BALANCE['quantile'](),)}, 'balance.quantile wants the same'),
  ],
  ids=['router', 'balance'],
)
def test_a_model_that_cannot_have_unequal_layers_is_refused_first(
  changes, line
):
  model = full(with_moe(**changes))
  with pytest.raises(errors.InputError, match=line) as error:
    model.expected(METHODS['easy_ep_global'], 4)
  # Numbers that no choice has made are not shown.
  assert not any(digit in str(error.value) for digit in '0123456789')
  for name, keep in (('easy_ep', 4), ('m_smoe', 4), ('easy_ep_global', 8)):
    assert model.expected(METHODS[name], keep)


def test_a_number_that_a_balance_loss_cannot_have_is_refused_first():
  balance = (BALANCE['device_level'](num_groups=4),)
  model = full(with_moe(balance=balance))
  assert model.expected(METHODS['easy_ep'], 4).moe.num_experts == 4
  with pytest.raises(errors.InputError, match='device_level'):
    model.expected(METHODS['easy_ep'], 6)


def test_places_without_an_expert_are_not_expected_to_stay():
  """Of 8 and 4 experts a layer keeps 6, if it has so many."""
  model = full(with_moe(experts_by_layer=(8, 4)))
  moe = model.expected(METHODS['easy_ep'], 6).moe
  assert (moe.num_experts, moe.experts_by_layer) == (6, (6, 4))
  moe = model.expected(METHODS['easy_ep'], 4).moe
  assert (moe.num_experts, moe.experts_by_layer) == (4, ())
