"""Intervals over documents, beside a bootstrap of tokens one by one."""

import numpy as np
import pytest

from moejax.analysis import bootstrap


@pytest.fixture(name='few_draws')
def _few_draws(monkeypatch):
  monkeypatch.setattr(bootstrap, 'DRAWS', 40)


def slow_means(value_T, document_T, draws):
  """The mean of each draw, from the tokens of each drawn document."""
  names = np.unique(document_T)
  means = []
  for draw in draws:
    tokens = []
    for name, times in zip(names, draw, strict=True):
      tokens += list(value_T[document_T == name]) * int(times)
    means.append(np.mean(tokens))
  return np.array(means)


@pytest.mark.usefixtures('few_draws')
def test_documents_are_drawn_whole():
  rng = np.random.default_rng(0)
  document_T = rng.choice([3, 70, 5, 11], 50)
  value_T = rng.normal(size=50) + document_T
  documents = bootstrap.Documents.of(document_T, seed=3)
  sums = documents.sums(value_T)
  means = slow_means(value_T, document_T, documents.draws)
  np.testing.assert_allclose(documents.drawn(*sums)[:, 0], means)
  mean = documents.layer_means(*sums).all
  assert mean.value == pytest.approx(value_T.mean())
  low, high = np.percentile(means, [2.5, 97.5])
  assert (mean.low, mean.high) == pytest.approx((low, high))


@pytest.mark.usefixtures('few_draws')
def test_the_mean_over_layers_is_drawn_with_all_layers_together():
  rng = np.random.default_rng(1)
  document_T = np.repeat([0, 1, 2], 4)
  value_NT = rng.normal(size=(2, 12))
  documents = bootstrap.Documents.of(document_T)
  sums = bootstrap.LayerSums(documents)
  for value_T in value_NT:
    sums.add(value_T)
  draws = documents.draws
  means = [slow_means(value_T, document_T, draws) for value_T in value_NT]
  low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
  mean = sums.means().all
  assert (mean.low, mean.high) == pytest.approx((low, high))


def test_an_interval_of_many_documents_is_that_of_the_normal_distribution():
  # 9,000 documents of one token each, joined to 2,000 units.
  value_T = np.random.default_rng(2).normal(size=9000)
  documents = bootstrap.Documents.of(np.arange(9000))
  assert documents.num == bootstrap.MAX_UNITS
  mean = documents.layer_means(*documents.sums(value_T)).all
  half = 1.96 * value_T.std() / 9000**0.5
  assert mean.value - mean.low == pytest.approx(half, rel=0.15)
  assert mean.high - mean.value == pytest.approx(half, rel=0.15)


def test_draws_without_a_token_that_counts_are_left_out():
  # Of two documents, one has no token that counts: a quarter of the draws.
  documents = bootstrap.Documents.of(np.array([0, 1, 1]))
  sums = documents.sums(
    np.array([9.0, 1.0, 3.0]), np.array([False, True, True])
  )
  assert np.isnan(documents.drawn(*sums)).mean() == pytest.approx(
    0.25, abs=0.05
  )
  mean = documents.layer_means(*sums).all
  assert (mean.value, mean.low, mean.high) == (2, 2, 2)


def test_draws_are_those_of_the_seed():
  document_T = np.arange(20)
  first, again, other = (
    bootstrap.Documents.of(document_T, seed).draws for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_one_document_has_no_interval():
  documents = bootstrap.Documents.of(np.zeros(5, int))
  mean = documents.layer_means(*documents.sums(np.arange(5.0))).all
  assert mean.value == 2
  assert np.isnan([mean.low, mean.high]).all()


def test_layers_without_a_token_are_left_out_of_the_mean():
  documents = bootstrap.Documents.of(np.array([0, 1]))
  sums = bootstrap.LayerSums(documents)
  sums.add(np.array([1.0, 3.0]))
  sums.add(np.array([9.0, 9.0]), np.array([False, False]))
  means = sums.means()
  assert np.isnan(means.layers[1].value)
  assert means.all.value == 2
