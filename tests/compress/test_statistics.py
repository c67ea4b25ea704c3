"""ExpertStatistics: sums, files, and what does not belong together."""

import dataclasses

import numpy as np
import pytest
from helpers import expert_statistics

from moejax.compress.statistics import SUMS, ExpertStatistics, normalised
from moejax.core import errors

FIRST = expert_statistics.random(seed=1, checkpoint='a', tokenizer='t')
SECOND = expert_statistics.random(seed=2, checkpoint='a', tokenizer='t')


def assert_equal(one, other):
  for field in dataclasses.fields(ExpertStatistics):
    np.testing.assert_array_equal(
      getattr(one, field.name), getattr(other, field.name), field.name
    )


def test_the_statistics_of_two_texts_add_up():
  both = FIRST.merged(SECOND)
  assert both.tokens == FIRST.tokens + SECOND.tokens
  for name in (*SUMS, 'output_gram_NEE'):
    total = getattr(FIRST, name) + getattr(SECOND, name)
    np.testing.assert_array_equal(getattr(both, name), total)
  assert (both.checkpoint, both.tokenizer) == ('a', 't')
  assert_equal(both, SECOND.merged(FIRST))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'checkpoint': 'b'}, "checkpoint 'a' cannot be added to those of 'b'"),
    ({'tokenizer': 'u'}, "tokenizer 't' cannot be added to those of 'u'"),
    ({'first_layer': 1}, 'first_layer 0 cannot be added to those of 1'),
    ({'output_gram_NEE': None}, "only one of two statistics has the experts'"),
  ],
)
def test_statistics_of_another_model_are_not_added(change, message):
  with pytest.raises(errors.InputError, match=message):
    FIRST.merged(dataclasses.replace(SECOND, **change))


def test_statistics_of_another_number_of_experts_are_not_added():
  other = expert_statistics.random(experts=5, checkpoint='a', tokenizer='t')
  with pytest.raises(errors.InputError, match=r'\(3, 4\) layers and experts'):
    FIRST.merged(other)


def test_a_sum_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r'gate_NE has shape \(3, 5\)'):
    dataclasses.replace(FIRST, gate_NE=np.ones((3, 5)))
  with pytest.raises(ValueError, match=r'logit_gram_NEE has shape \(3, 4\)'):
    dataclasses.replace(FIRST, logit_gram_NEE=np.ones((3, 4)))


@pytest.mark.parametrize('outputs', [True, False])
def test_a_file_gives_the_statistics_back(tmp_path, outputs):
  saved = expert_statistics.random(
    outputs=outputs, first_layer=2, checkpoint='a', tokenizer='t'
  )
  saved.save(tmp_path / 'code.npz')
  loaded = ExpertStatistics.load(tmp_path / 'code.npz', 'a', 't')
  assert_equal(loaded, saved)
  assert loaded.count_NE.dtype == saved.count_NE.dtype
  assert type(loaded.tokens) is int
  assert type(loaded.checkpoint) is str


@pytest.mark.parametrize(
  ('wanted', 'message'),
  [
    (('b', 't'), "are of another checkpoint ('a', not 'b'); collect"),
    (('a', 'u'), "are of another tokenizer ('t', not 'u'); collect"),
  ],
)
def test_a_file_of_another_model_is_one_line(tmp_path, wanted, message):
  FIRST.save(tmp_path / 'code.npz')
  with pytest.raises(errors.InputError) as error:
    ExpertStatistics.load(tmp_path / 'code.npz', *wanted)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_a_file_that_is_missing_or_of_another_kind_is_one_line(tmp_path):
  path = tmp_path / 'x.npz'
  with pytest.raises(errors.InputError, match='there are no statistics at'):
    ExpertStatistics.load(path)
  whole = tmp_path / 'whole.npz'
  FIRST.save(whole)
  np.save(tmp_path / 'array.npy', np.ones(3))
  np.savez(tmp_path / 'others.npz', tokens=3)
  for content in (
    b'',
    b'text',
    whole.read_bytes()[:500],
    (tmp_path / 'array.npy').read_bytes(),
    (tmp_path / 'others.npz').read_bytes(),
  ):
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match='does not hold statistics'):
      ExpertStatistics.load(path)


def test_normalised_scores_sum_to_one_in_each_layer():
  score_NE = np.array([[1, 3, 0, 4], [0, 0, 0, 0]])
  np.testing.assert_array_equal(
    normalised(score_NE), [[0.125, 0.375, 0, 0.5], [0.25] * 4]
  )
