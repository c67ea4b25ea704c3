"""The balance loss of first choices, by numbers worked by hand."""

import numpy as np
import pytest
from helpers import balance as by_hand

from moejax.core import errors
from moejax.moe.balance import BALANCE, first_choice

# Two images of two tokens, two experts, both chosen; the third image is
# padding. exp(logits) is 3 to 1, 1 to 1, 1 to 3, 1 to 3.
RATIO_TE = [[3, 1], [1, 1], [1, 3], [1, 3], [1, 1], [1, 1]]
FIRST_TK = [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]


def problem(logits_TE=None, prob_TE=None):
  if logits_TE is None:
    logits_TE = np.log(RATIO_TE)
  return by_hand.problem(
    np.full((6, 2), 0.5) if prob_TE is None else prob_TE,
    FIRST_TK,
    valid_T=np.array([1, 1, 1, 1, 0, 0], bool),
    row_length=2,
    logits_TE=logits_TE,
  )


@pytest.mark.parametrize(
  ('fields', 'wanted'),
  [
    # Image 1: f = [1, 0], P = [5/8, 3/8]: 2 * 5/8. Image 2: f = [0, 1],
    # P = [1/4, 3/4]: 2 * 3/4. Their mean is 11/8.
    ({}, 11 / 8),
    # f = [1/2, 1/2] and P sums to 1.
    ({'over': 'batch'}, 1.0),
    # The router's probabilities are 1/2 each.
    ({'probability': 'router'}, 1.0),
  ],
)
def test_numbers_by_hand(fields, wanted):
  part = first_choice.FirstChoice(alpha=10.0, **fields)
  found = part.loss(part.observe(*problem()))
  np.testing.assert_allclose(found, 10 * wanted, 1e-6)


def test_over_the_batch_it_is_switch():
  rng = np.random.default_rng(0)
  prob_TE = by_hand.softmax(rng.normal(size=(6, 2)))
  own = first_choice.FirstChoice(0.5, 'batch', 'router')
  switch = BALANCE['switch'](alpha=0.5)
  found, wanted = (
    part.loss(part.observe(*problem(prob_TE=prob_TE))) for part in (own, switch)
  )
  np.testing.assert_allclose(found, wanted, 1e-6)


def test_logits_of_another_number_than_experts_are_refused():
  with pytest.raises(errors.InputError, match='needs one logit for each'):
    first_choice.FirstChoice().observe(*problem(logits_TE=np.zeros((6, 5))))
