"""The first rows: of training where it is packed, else of the text."""

import json

import numpy as np
import pytest

from moejax.data import build, config, preview, vocab


@pytest.fixture
def data(tmp_path):
  texts = [f'document {i} of many' for i in range(300)]
  lines = [json.dumps({'text': text}) for text in texts]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  return config.DataConfig(
    files=f'{tmp_path}/a.jsonl',
    vocab=vocab.Bytes(),
    sequence_length=32,
    cache_dir=f'{tmp_path}/caches',
  )


def test_rows_of_a_text_are_the_first_of_its_cache(data, tmp_path):
  view = preview.first_rows(data, 4, 0, 5)
  assert 'the beginning of the text' in view.origin
  assert not (tmp_path / 'caches').exists()
  assert view.domains == ['files'] * 5
  rows = build.build(data, 4, 0).domains['files'].train.rows(np.arange(5))
  np.testing.assert_array_equal(view.rows.target_BL, rows.target_NL)
  np.testing.assert_array_equal(view.rows.segment_BL, rows.segment_NL)


def test_rows_of_a_cache_are_those_of_the_first_steps(data):
  train = build.build(data, 4, seed=3).train
  view = preview.first_rows(data, 4, 3, 6)
  assert 'from the cache' in view.origin
  wanted = [train.batch(0).target_BL, train.batch(1).target_BL[:2]]
  np.testing.assert_array_equal(view.rows.target_BL, np.concatenate(wanted))


def test_a_short_text_has_fewer_rows(data, tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"text": "short"}')
  assert len(preview.first_rows(data, 4, 0, 5).rows.target_BL) == 1


def test_generated_rows_are_no_text():
  made_up = config.DataConfig(mixture='synthetic')
  assert preview.first_rows(made_up, 4, 0, 5) is None
