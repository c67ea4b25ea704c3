"""Every evaluation keeps the contract that moejax/evals states."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
from helpers import tiny

from moejax.data.vocab import Bytes
from moejax.evals import EVALS, perplexity, samples, validation
from moejax.evals.perplexity import Score
from moejax.evals.subject import Subject


class Domain(types.SimpleNamespace):
  """A validation set of two batches."""

  num_rows, num_tokens, num_bytes = 4, 20, 40


CONFIG = tiny.model_config(moe={'num_experts': 4}, num_layers=2)


@pytest.fixture(scope='module')
def model():
  return tiny.model(CONFIG)


@pytest.fixture
def subject(monkeypatch, model):
  batches = [tiny.batch([[12], [6, 4]], seed=1)] * 2
  monkeypatch.setattr(perplexity, 'eval_batches', lambda *_: batches)
  # The three prompts' continuations; generation itself takes long to compile.
  new = lambda *_, **__: [[100, 101], [], [102]]
  monkeypatch.setattr(samples.generate, 'generate', new)
  data = types.SimpleNamespace(
    validation={'code': Domain(), 'bible': Domain()},
    vocab=Bytes(),
    length=64,
    baselines=lambda name: types.SimpleNamespace(
      unigram_bits_per_byte=4.5, xz_bits_per_byte=math.nan
    ),
  )
  return Subject(model, tiny.weights(model), data)


@pytest.mark.parametrize('name', EVALS)
def test_an_evaluation_gives_rows_that_json_takes(name, subject):
  rows = EVALS[name](subject)
  assert json.loads(json.dumps(rows, allow_nan=False)) == rows
  assert rows
  assert all(isinstance(row, dict) and row for row in rows.values())


def test_all_evaluations_of_a_model_are_one_program(subject, monkeypatch):
  traced, outputs = [], perplexity._outputs
  monkeypatch.setattr(
    perplexity, '_outputs', lambda *a: traced.append(a) or outputs(*a)
  )
  new = tiny.model(CONFIG)
  for _ in range(2):
    assert dataclasses.replace(subject, model=new).scores
  assert len(traced) == 1


def test_validation_sets_are_scored_once_for_all_that_ask(subject, monkeypatch):
  calls = []
  real = perplexity.evaluate
  monkeypatch.setattr(
    perplexity, 'evaluate', lambda *a: calls.append(a) or real(*a)
  )
  assert list(subject.scores) == ['code', 'bible']
  assert list(EVALS['perplexity'](subject)) == ['code', 'bible']
  assert len(calls) == 2


def test_bits_per_byte_of_a_whole_set_and_of_a_part(subject):
  # 10 of 20 tokens, so 20 of 40 bytes: 10 tokens of ln 2 nats are 10 bits.
  score = Score(loss=math.log(2), accuracy=0.5, tokens=10, count_NE=None)
  subject.__dict__['scores'] = {'code': score}
  row = validation.perplexity(subject)['code']
  assert row == {
    'loss': math.log(2),
    'perplexity': pytest.approx(2),
    'accuracy': 0.5,
    'tokens': 10,
    'bits_per_byte': pytest.approx(0.5),
    'bits_low': None,  # of rows that are not known
    'bits_high': None,
    'unigram': 4.5,
    'xz': None,  # not known
  }
  part = Subject(subject.model, subject.weights, subject.data, limit=1)
  part.__dict__['scores'] = {'code': score}
  row = validation.perplexity(part)['code']
  assert (row['bits_per_byte'], row['unigram']) == (pytest.approx(0.5), None)


def test_the_interval_is_that_of_the_ratio_of_sums(subject):
  # Rows whose losses are drawn about one nat, of many and of few tokens.
  stream = np.random.default_rng(0)
  tokens = stream.integers(10, 100, 400)
  nats = tokens * stream.normal(1, 0.2, 400)
  loss = nats.sum() / tokens.sum()
  rows = np.stack([nats, tokens], axis=-1)
  score = Score(loss, 0.5, int(tokens.sum()), None, rows)
  low, high = score.loss_interval()
  # The delta method for a ratio of sums.
  error = np.sqrt(np.sum((nats - loss * tokens) ** 2)) / tokens.sum()
  assert low == pytest.approx(loss - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(loss + 1.96 * error, abs=0.15 * error)
  assert Score(1.0, 0.5, 10, None, rows[:1]).loss_interval() is None
  subject.__dict__['scores'] = {'code': score}
  row = validation.perplexity(subject)['code']
  ratio = row['bits_per_byte'] / loss
  assert row['bits_low'] == pytest.approx(low * ratio)
  assert row['bits_high'] == pytest.approx(high * ratio)


def test_rows_add_up_to_the_loss(subject):
  score = subject.scores['code']
  nats, tokens = score.rows_R2.sum(axis=0)
  assert tokens == score.tokens
  assert nats / tokens == pytest.approx(score.loss, rel=1e-5)


def test_rows_without_text_have_no_bits(subject):
  subject.data.validation = {'code': Domain(num_bytes=0)}
  row = EVALS['perplexity'](subject)['code']
  assert row['loss'] > 0
  assert [row[name] for name in validation.BITS] == [None] * len(
    validation.BITS
  )
