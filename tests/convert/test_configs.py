"""Which family a config is of, and when two configs are one function."""

import dataclasses
import pathlib
import re

import pytest
from helpers import hf, tiny

from moejax.convert import configs, folder
from moejax.convert.families import FAMILIES, unread
from moejax.core import errors
from moejax.moe.scorers import SCORERS

DOCUMENT = pathlib.Path(__file__).parents[2] / 'docs' / 'models.md'


@pytest.mark.parametrize(
  ('name', 'meant'),
  [
    ('olmoo', 'olmoe'),
    ('olmoee', 'olmoe'),
    ('olmeo', 'olmoe'),
    ('mixtal', 'mixtral'),
    ('Qwen3-MoE', 'qwen3_moe'),
    ('deepseekv3', 'deepseek_v3'),
    ('qwen4', None),
    ('qwen3_5', None),
    ('qwen33', None),
    ('deepseek_v5', None),
    ('llam', None),
    ('gpt2', None),
    ('bert', None),
  ],
)
def test_a_model_type_is_suggested_where_the_spelling_alone_is_wrong(
  name, meant
):
  with pytest.raises(errors.InputError) as e:
    configs.family_of({'model_type': name})
  said = str(e.value)
  assert said.startswith(f'unknown model_type of config.json {name!r};')
  assert said.endswith(', '.join(sorted(FAMILIES)))
  assert ('did you mean' in said) == (meant is not None)
  assert meant is None or f"did you mean '{meant}'?" in said


@pytest.mark.parametrize('name', unread.LACKING)
def test_what_a_known_model_type_needs_is_said(name):
  assert name not in FAMILIES
  with pytest.raises(errors.InputError) as e:
    configs.family_of({'model_type': name})
  reason = f'{name!r} of config.json: moejax does not have '
  assert f'{reason}{unread.LACKING[name]}; known are: ' in str(e.value)
  assert 'did you mean' not in str(e.value)


def test_the_documents_say_what_is_read_and_what_lacks():
  text = DOCUMENT.read_text()
  rows = [line for line in text.splitlines() if line.lstrip().startswith('| `')]
  there = [name for row in rows for name in re.findall(r'`(\w+)`', row)]
  assert set(FAMILIES) <= set(there)
  for name, lacking in unread.LACKING.items():
    assert any(f'`{name}`' in row and lacking in row for row in rows), name


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


def test_kimi_k2_is_read_with_its_one_number_of_turns():
  """The release's `rope_scaling`, in which beta_fast is beta_slow."""
  theirs = folder.open_folder(str(hf.GOLDEN / 'deepseek_v3')).config
  rope = {'type': 'yarn', 'factor': 64.0, 'beta_fast': 1.0, 'beta_slow': 1.0}
  rope |= {'mscale': 1.0, 'mscale_all_dim': 1.0}
  rope |= {'original_max_position_embeddings': 4096}
  theirs |= {'model_type': 'kimi_k2', 'rope_scaling': rope}
  scaling = configs.read(configs.family_of(theirs), theirs).rope.scaling
  assert (scaling.beta_fast, scaling.beta_slow) == (1, 1)
  assert scaling.amplitude == 1
