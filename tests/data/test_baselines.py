"""Unigram and xz: hand-worked, and equal to what they stand for."""

import dataclasses
import json
import lzma
import math

import numpy as np
import pytest

from moejax.data import (
  baselines,
  build,
  cache_writer,
  config,
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


def test_a_process_of_its_own_compresses_the_training_text_once(monkeypatch):
  train, held_out = ['a text of some words. ' * 99], ['and another text']
  want = baselines.xz_bits_per_byte(train, held_out)
  monkeypatch.setattr(baselines.lzma, 'compress', None)  # not called here
  assert baselines.xz_bits_per_byte(train, held_out) == want


@pytest.mark.parametrize('program', ['/no/such/python', 'false', 'true'])
def test_without_that_process_xz_is_the_same(monkeypatch, program):
  train, held_out = ['a text of some words. ' * 99], ['and another text']
  want = baselines.xz_bits_per_byte(train, held_out)
  monkeypatch.setattr(baselines.sys, 'executable', program)
  assert baselines.xz_bits_per_byte(train, held_out) == want


def _domain(folder, cache_dir, max_documents=0):
  own = files.Files(str(folder))
  request = cache_writer.Request(vocab.Bytes(), 16, cache_dir, max_documents)
  rows = [own.rows(split, request) for split in own.splits]
  return baselines.Domain(own, 1.0, 259, *rows, max_documents)


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


def _write_documents(path):
  lines = [json.dumps({'text': f'{n} squared: {n * n}. '}) for n in range(999)]
  path.write_text('\n'.join(lines))


def test_xz_reads_the_documents_that_are_in_the_rows(tmp_path):
  _write_documents(tmp_path / 'a.jsonl')
  domain = _domain(tmp_path / 'a.jsonl', tmp_path / 'c', max_documents=9)
  train, held_out = (
    list(domain.task.texts(split))[:9] for split in domain.task.splits
  )
  assert domain.train.num_bytes == len(''.join(train).encode())
  found = baselines.compute({'files': domain})['files'].xz_bits_per_byte
  assert found == baselines.xz_bits_per_byte(train, held_out)


def test_what_is_kept_is_of_one_number_of_documents(tmp_path):
  _write_documents(tmp_path / 'a.jsonl')
  whole = _domain(tmp_path / 'a.jsonl', tmp_path / 'c')
  some = dataclasses.replace(whole, max_documents=9)  # beside the same rows
  found = [
    baselines.compute({'files': domain})['files'].xz_bits_per_byte
    for domain in (whole, some, whole)
  ]
  assert found[0] == found[2] != found[1]
  assert len(list(whole.validation.path.glob('baselines-*.json'))) == 2


def test_half_a_kept_file_is_computed_again(tmp_path):
  _write_documents(tmp_path / 'a.jsonl')
  domains = {'files': _domain(tmp_path / 'a.jsonl', tmp_path / 'c')}
  found = baselines.compute(domains)
  (kept,) = domains['files'].validation.path.glob('baselines-*.json')
  whole = kept.read_text()
  for broken in ('', whole[:-9], '{}', '3'):
    kept.write_text(broken)
    assert baselines.compute(domains) == found
    assert kept.read_text() == whole


def test_a_run_with_max_documents_has_their_figures(tmp_path):
  _write_documents(tmp_path / 'a.jsonl')
  data = build.build(
    config.DataConfig(
      files=str(tmp_path / 'a.jsonl'),
      vocab=vocab.Bytes(),
      max_documents=9,
      cache_dir=str(tmp_path / 'c'),
    ),
    batch_size=2,
    seed=0,
  )
  texts = files.Files(str(tmp_path / 'a.jsonl')).texts
  want = baselines.xz_bits_per_byte(
    list(texts('train'))[:9], list(texts('validation'))[:9]
  )
  assert data.baselines('files').xz_bits_per_byte == want
