"""Exact answers: counted by hand, and by a loop over rows at random."""

import json
import types

import jax
import numpy as np
import pytest

from moejax.core import values
from moejax.data import features
from moejax.data.cache import RowReader
from moejax.evals import answers, perplexity, validation
from moejax.run import report


def rows(*segments):
  """Arrays [B, L] of rows, each a text with a letter for each position.

  A letter is the segment: small letters have no loss, capitals have one, and
  '.' is padding.
  """
  grid = np.array([[*text] for text in segments])
  segment_BL = np.vectorize(lambda c: 0 if c == '.' else ord(c.lower()) - 96)(
    grid
  )
  weight_BL = np.vectorize(str.isupper)(grid).astype(np.float32)
  return weight_BL, segment_BL.astype(np.int32)


def count(correct, weight_BL, segment_BL):
  mean = jax.jit(answers.exact)(correct, weight_BL, segment_BL)
  return float(mean.total), float(mean.weight)


def test_an_answer_is_exact_if_all_its_tokens_are():
  weight_BL, segment_BL = rows(
    'aaAAbBBbB.',  # three answers; the second document has two
    'AAABBB....',  # answers without a prompt, of two documents
    'aaaaaaaaaa',  # no answer
  )
  correct_BL = np.ones(weight_BL.shape, np.float32)
  assert count(correct_BL, weight_BL, segment_BL) == (5, 5)
  correct_BL[0, 3] = 0  # the end of the first answer
  correct_BL[0, [0, 1, 4, 7, 9]] = 0  # prompts and padding do not count
  assert count(correct_BL, weight_BL, segment_BL) == (4, 5)
  correct_BL[1, [0, 2]] = 0  # two tokens of one answer
  assert count(correct_BL, weight_BL, segment_BL) == (3, 5)
  correct_BL[1, 3] = 0
  assert count(correct_BL, weight_BL, segment_BL) == (2, 5)


def test_it_is_what_a_loop_finds():
  rng = np.random.default_rng(0)
  segment_BL = np.sort(rng.integers(0, 5, (8, 40)), axis=1)[:, ::-1]
  weight_BL = ((rng.random((8, 40)) < 0.6) & (segment_BL > 0)).astype(float)
  correct_BL = (rng.random((8, 40)) < 0.8).astype(float)
  number = right = 0
  for segment_L, weight_L, correct_L in zip(
    segment_BL, weight_BL, correct_BL, strict=True
  ):
    at = 0
    while at < 40:
      end = at
      while end < 40 and weight_L[end] and segment_L[end] == segment_L[at]:
        end += 1
      if end > at:
        number += 1
        right += bool(correct_L[at:end].all())
      at = max(end, at + 1)
  assert number > 50
  assert count(correct_BL, weight_BL, segment_BL) == (right, number)


def test_text_without_prompts_has_no_answers():
  """A batch's metrics as of a jitted step; padding is no prompt."""
  weight_BL, segment_BL = rows('AABB..', 'AAAAAA')

  def step(_, weight_BL):
    return {
      'loss': values.Mean.of(1.0),
      'accuracy': values.Mean.of(1.0),
      'exact': answers.exact(weight_BL, weight_BL, segment_BL),
      'prompts': answers.prompts(weight_BL, segment_BL),
    }

  score = perplexity.evaluate(step, None, [weight_BL, weight_BL])
  assert (score.answers, score.exact) == (0, None)
  weight_BL[1, 0] = 0
  score = perplexity.evaluate(step, None, [weight_BL, weight_BL])
  assert (score.answers, score.exact) == (6, 1.0)


class Reader(RowReader):
  """Two packed rows of conversations; ~id has no loss."""

  num_rows, num_bytes = 300, 0

  def rows(self, index_N):
    # 300 rows, of which every third has the answer [7, 8] twice.
    one = [~5, 7, 8, ~5, 7, 8, 0, 0]
    other = [~5, 7, 7, ~5, 8, 7, ~4, 9]
    target_NL = np.array([one if n % 3 == 0 else other for n in index_N])
    segment_NL = np.array([
      [1, 1, 1, 2, 2, 2, 0, 0] if n % 3 == 0 else [1, 1, 1, 2, 2, 2, 3, 3]
      for n in index_N
    ])
    return features.Rows(target_NL, segment_NL)


def test_the_most_frequent_answer():
  """[7, 8] 200 times; [7, 7], [8, 7] and [9] 200 times each, less one row."""
  assert answers.most_frequent(Reader()) == pytest.approx(200 / 800)

  class One(Reader):
    num_rows = 4  # rows 0 and 3 have [7, 8] twice; two rows have the others

  assert answers.most_frequent(One()) == pytest.approx(4 / 10)


def test_the_report_of_conversations_has_their_answers():
  score = perplexity.Score(1.0, 0.5, 10, None, answers=8, exact=0.75)
  text = perplexity.Score(1.0, 0.5, 10, None)
  subject = types.SimpleNamespace(
    scores={'talk': score, 'text': text},
    data=types.SimpleNamespace(
      validation=dict.fromkeys(('talk', 'text'), Reader())
    ),
  )
  found = validation.perplexity(subject)
  assert json.loads(json.dumps(found)) == found
  assert found['talk']['answers'] == 8
  assert found['talk']['exact'] == 0.75
  assert found['talk']['most_frequent'] == pytest.approx(0.25)
  assert 'exact' not in found['text']
  lines = report._score_lines(found)
  assert ' '.join(lines[0].split()) == (
    'validation loss perplexity exact answers most frequent'
  )
  assert lines[1].split() == ['talk', '1.000', '2.7', '75.0%', '25.0%']
  assert lines[2].split() == ['text', '1.000', '2.7', '-', '-']
  assert lines[3].split() == ['mean', '1.000', '2.7', '-', '-']
