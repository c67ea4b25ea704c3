"""What two configs may differ in and still be one function of weights."""

import dataclasses

import pytest
from helpers import hf, tiny

from moejax.convert import configs, folder
from moejax.convert.families import FAMILIES
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


def hunyuan(**changes):
  """Our config of one of Hunyuan's, with changes."""
  theirs = folder.open_folder(str(hf.GOLDEN / 'hunyuan_v1_moe')).config
  return configs.read(FAMILIES['hunyuan_v1_moe'], theirs | changes)


def test_numbers_for_each_layer_are_one_number():
  assert hunyuan(moe_topk=[3, 3]) == hunyuan(moe_topk=3)
  with pytest.raises(errors.InputError, match=r'moe_topk=\[3, 2\], but'):
    hunyuan(moe_topk=[3, 2])


def test_a_fixed_alpha_is_a_larger_base():
  rope = {'type': 'dynamic', 'alpha': 8.0, 'rope_theta': 100.0}
  # Heads of 8 features: 8^(8 / 6) is 16.
  assert hunyuan(rope_scaling=rope).rope.base == pytest.approx(1600)
