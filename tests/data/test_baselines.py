"""Unigram and xz: hand-worked, and equal to what they stand for."""

import dataclasses
import json
import lzma
import math

import numpy as np
import pytest

from moejax.data import (
  baselines,
  cache_writer,
  features,
  files,
  tasks,
  vocab,
)


class Targets:
  """Rows from a list of targets; 0 is padding."""

  def __init__(self, target_NL):
    self._target_NL = np.array(target_NL)
    self.num_rows, self.length = self._target_NL.shape

  def rows(self, index_N):
    target_NL = self._target_NL[index_N]
    return features.Rows(target_NL, (target_NL > 0).astype(int))


def test_unigram_by_hand():
  """Three ids; counts 0, 2, 1 and one for each: 1/6, 3/6, 2/6."""
  nats = baselines.unigram_nats(
    Targets([[1, 1], [2, 0]]), Targets([[1, 2, 0]]), 3
  )
  assert nats == pytest.approx((-math.log(3 / 6) - math.log(2 / 6)) / 2)


def test_unigram_of_an_even_text_is_the_log_of_the_ids():
  rng = np.random.default_rng(0)
  target_NL = rng.integers(1, 65, (5000, 32))
  nats = baselines.unigram_nats(
    Targets(target_NL[:4500]), Targets(target_NL[4500:]), 65
  )
  assert nats == pytest.approx(math.log(64), abs=0.002)


def test_xz_is_what_validation_adds():
  texts = list(tasks.TASKS['minipile_scripture'].texts('validation'))
  train, held_out = texts[:40], texts[40:]
  before, after = ''.join(train).encode(), ''.join(held_out).encode()
  both = len(lzma.compress(before + after, preset=9))
  want = 8 * (both - len(lzma.compress(before, preset=9))) / len(after)
  assert baselines.xz_bits_per_byte(train, held_out) == want
  # A copy of the training text costs next to nothing.
  assert baselines.xz_bits_per_byte(train, train) < 0.5


def _domain(folder, cache_dir):
  own = files.Files(str(folder))
  request = cache_writer.Request(vocab.Bytes(), 16, cache_dir)
  rows = [own.rows(split, request) for split in own.splits]
  return baselines.Domain(own, 1.0, 259, *rows)


def test_they_are_kept_beside_the_rows(tmp_path, monkeypatch):
  lines = [f'number {n} and its square {n * n}\n' for n in range(999)]
  (tmp_path / 'a.txt').write_text(''.join(lines))
  domains = {'files': _domain(tmp_path / 'a.txt', tmp_path / 'c')}
  found = baselines.compute(domains)['files']
  held_out = domains['files'].validation
  assert found.unigram_bits_per_byte == pytest.approx(
    found.unigram_nats / math.log(2) * held_out.num_tokens / held_out.num_bytes
  )
  assert 0 < found.xz_bits_per_byte < found.unigram_bits_per_byte
  (kept,) = held_out.path.glob('baselines-*.json')
  assert json.loads(kept.read_text()) == dataclasses.asdict(found)
  monkeypatch.setattr(baselines, 'unigram_nats', None)  # not called again
  assert baselines.compute(domains)['files'] == found


def test_a_long_text_has_no_xz(tmp_path, monkeypatch):
  (tmp_path / 'a.txt').write_text('some words and lines\n' * 99)
  domains = {'files': _domain(tmp_path / 'a.txt', tmp_path / 'c')}
  monkeypatch.setattr(baselines, '_LARGEST_TEXT', 1000)
  assert math.isnan(baselines.compute(domains)['files'].xz_bits_per_byte)
