"""What two configs may differ in and still be one function of weights."""

import dataclasses

import pytest
from helpers import tiny

from moejax.convert import configs
from moejax.core import errors
from moejax.moe.scorers import SCORERS

COSINE = SCORERS['cosine']()


@pytest.mark.parametrize(
  ('change', 'same'), [({'balance_tau': 0.0}, True), ({'tau': 0.5}, False)]
)
def test_what_balance_losses_alone_see_may_differ(change, same):
  one, other = (
    tiny.model_config(moe={'scorer': scorer})
    for scorer in (COSINE, dataclasses.replace(COSINE, **change))
  )
  if same:
    configs.check_same(one, other, 'it')
  else:
    message = 'it has model.moe.scorer.tau=0.3, not 0.5'
    with pytest.raises(errors.InputError, match=message):
      configs.check_same(one, other, 'it')
