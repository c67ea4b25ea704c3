"""Scores of papers are copied right, and belong to tasks of their suites."""

import numpy as np
import pytest

from moejax.evals.benchmarks import SUITES
from moejax.evals.published import PUBLISHED

# The averages that Table 2 of arXiv 2505.10860 prints; they and the scores are
# rounded to 0.01, so they differ by less than that.
AVERAGES = {
  'smoe_158m': 42.90,
  'deepseek_v3_158m': 43.21,
  'deepseek_v2_158m': 43.11,
  'smoe_sg_158m': 43.04,
  'smoe_679m': 47.71,
  'deepseek_v3_679m': 48.29,
  'deepseek_v2_679m': 47.91,
  'smoe_sg_679m': 48.06,
}


@pytest.mark.parametrize('suite', PUBLISHED)
def test_scores_are_of_tasks_of_their_suite(suite):
  for name, column in PUBLISHED[suite].items():
    assert set(column.scores) <= set(SUITES[suite]), name
    assert all(0 <= score <= 100 for score in column.scores.values()), name
    assert 'arXiv' in column.source
  assert any(column.shown for column in PUBLISHED[suite].values())


def test_means_are_the_averages_that_the_paper_prints():
  columns = PUBLISHED['libmoe']
  means = {
    name: np.mean([*column.scores.values()]) for name, column in columns.items()
  }
  assert means == pytest.approx(AVERAGES, abs=0.01)


@pytest.mark.parametrize(
  ('name', 'task', 'score'),
  [
    ('deepseekmoe_2b', 'hellaswag', 54.8),
    ('deepseekmoe_2b', 'naturalquestions', 5.7),
    ('gshard_1.5x', 'race_middle', 46.4),
    ('deepseekmoe_16b', 'chid', 89.4),
    ('deepseekmoe_16b', 'mmlu', 45.0),
    ('deepseekmoe_chat_16b', 'bbh', 42.2),
    ('deepseekmoe_13b', 'triviaqa', 38.2),
  ],
)
def test_single_scores(name, task, score):
  assert PUBLISHED['deepseekmoe'][name].scores[task] == score
