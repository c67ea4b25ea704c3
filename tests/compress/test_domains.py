"""Several domains: their weights, their scores and their statistics."""

import numpy as np
import pytest
from helpers import expert_statistics

from moejax.compress import domains
from moejax.core import errors

KNOWN = ['bible', 'code', 'scripture']


@pytest.mark.parametrize(
  ('text', 'weights'),
  [
    ('code=0.5,scripture=0.5', {'code': 0.5, 'scripture': 0.5}),
    (' code = 2 , bible', {'code': 2.0, 'bible': 1.0}),
    ('', {'bible': 1.0, 'code': 1.0, 'scripture': 1.0}),
  ],
)
def test_weights_of_domains_are_read(text, weights):
  assert domains.parsed(text, KNOWN) == weights


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('cod=1', "unknown domain 'cod'; did you mean 'code'?"),
    ('code=1,', "unknown domain ''"),
    ('code,code=2', "names 'code' twice"),
    ('code=x', "the weight of 'code' is 'x'; give a number above 0"),
    ('code=', "the weight of 'code' is ''"),
    ('code=0', "the weight of 'code' is '0'"),
    ('code=-1', "the weight of 'code' is '-1'"),
    ('code=inf', "the weight of 'code' is 'inf'"),
    ('code=nan', "the weight of 'code' is 'nan'"),
  ],
)
def test_wrong_weights_of_domains_are_one_line(text, message):
  with pytest.raises(errors.InputError) as error:
    domains.parsed(text, KNOWN)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_scores_of_domains_are_normalised_before_they_are_summed():
  """The domain of 1000 times the scores has the influence of its weight."""
  scores = {
    'code': np.array([[1.0, 1, 2, 0], [1, 1, 1, 1]]),
    'bible': 1000 * np.array([[0.0, 3, 0, 1], [0, 0, 8, 0]]),
    'unused': np.full((2, 4), np.nan),
  }
  expected = [
    # (1, 1, 2, 0) / 4 with weight 3/4, (0, 3, 0, 1) / 4 with weight 1/4
    [0.1875, 0.375, 0.375, 0.0625],
    [0.1875, 0.1875, 0.4375, 0.1875],
  ]
  weights = {'code': 3.0, 'bible': 1.0}
  np.testing.assert_allclose(domains.mixed(scores, weights), expected)


def test_one_domain_alone_is_ordered_as_its_scores():
  score_NE = expert_statistics.random().easy_ep_NE
  mixed_NE = domains.mixed({'code': score_NE}, {'code': 0.3})
  np.testing.assert_array_equal(mixed_NE.argsort(), score_NE.argsort())
  np.testing.assert_allclose(mixed_NE.sum(axis=1), 1)


def test_pooled_statistics_weigh_domains_and_not_their_lengths():
  code = expert_statistics.random(seed=1)
  bible = expert_statistics.random(seed=2)
  longer = bible.merged(bible).merged(bible)
  weights = {'code': 1.0, 'bible': 3.0}
  pooled = domains.pooled({'code': code, 'bible': longer}, weights)
  assert pooled.tokens == 32  # 8 and 3 times 8
  # Shares 1/4 and 3/4 of 32 tokens, of 8 and 24.
  np.testing.assert_allclose(
    pooled.count_NE, code.count_NE + 3 * bible.count_NE
  )
  np.testing.assert_allclose(
    pooled.output_gram_NEE, code.output_gram_NEE + 3 * bible.output_gram_NEE
  )


def test_pooling_a_domain_without_tokens_is_one_line():
  empty = expert_statistics.of_events([], 4, np.zeros((0, 4)))
  with pytest.raises(errors.InputError, match="domain 'code' have no tokens"):
    domains.pooled({'code': empty}, {'code': 1.0})
