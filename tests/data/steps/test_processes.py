"""Documents examined in processes: the same decisions, in the same order."""

import os
import signal

import numpy as np
import pytest

from moejax.core import errors
from moejax.data import build, vocab
from moejax.data.config import DataConfig
from moejax.data.steps import STEPS, base
from moejax.data.steps.exact_duplicates import ExactDuplicates
from moejax.data.steps.length import Length
from moejax.data.steps.near_duplicates import NearDuplicates


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(base, 'JOB', 300)
  monkeypatch.setattr(base, '_ALONE', 1000)


def _texts(count=150):
  rng = np.random.default_rng(0)
  words = [f'word{n}' for n in range(200)]
  texts: list[str] = []
  for number in range(count):
    if texts and number % 3 == 0:
      text = texts[rng.integers(len(texts))].split()
      text[rng.integers(len(text))] = words[number]
    else:
      text = rng.choice(words, rng.integers(3, 40)).tolist()
    texts.append(' '.join(text))
  return [*texts, *texts[:20]]


STEPPED = {
  'length': Length(min_characters=40),
  'exact_duplicates': ExactDuplicates(),
  'near_duplicates': NearDuplicates(size=1, threshold=0.7, num_hashes=64),
}


@pytest.mark.parametrize(
  'processes', [2, pytest.param(3, marks=pytest.mark.soak)]
)
def test_decisions_do_not_depend_on_processes(processes):
  one, several = base.Pass(STEPPED), base.Pass(STEPPED)
  want = list(one.kept(_texts()))
  assert list(several.kept(_texts(), processes)) == want
  assert several.removed == one.removed
  assert all(removed.documents for removed in one.removed)
  assert len(want) > 20


def test_a_cache_does_not_depend_on_processes(tmp_path):
  (tmp_path / 'a.txt').write_text('held out ' * 50)
  for number, text in enumerate(_texts()):
    (tmp_path / f'text{number:03d}.txt').write_text(text)
  metas = [
    build
    .build(
      DataConfig(
        files=f'{tmp_path}/text*',
        validation_files=f'{tmp_path}/a.txt',
        vocab=vocab.Bytes(),
        steps=tuple(STEPPED.values()),
        cache_dir=str(tmp_path / str(processes)),
      ),
      batch_size=1,
      seed=0,
      processes=processes,
    )
    .domains['files']
    .train.meta
    for processes in (1, 3)
  ]
  assert metas[0] == metas[1]
  assert metas[0].removed[1].documents > 0


class _Dying(Length):
  """Ends the process of a worker."""

  def examine(self, text):
    if os.getpid() != int(os.environ['PARENT']):
      os.kill(os.getpid(), signal.SIGKILL)
    return ''


@pytest.mark.soak
def test_a_worker_that_is_killed_is_one_line(monkeypatch):
  monkeypatch.setenv('PARENT', str(os.getpid()))
  with pytest.raises(errors.InputError, match='ended early .SIGKILL.') as error:
    list(base.Pass({'dying': _Dying()}).kept(_texts(), 2))
  assert '\n' not in str(error.value)


def test_one_process_reads_no_document_before_it_is_needed():
  read = []

  def texts():
    for text in _texts():
      read.append(text)
      yield text

  kept = base.Pass({'length': STEPS['length'](0)}).kept(texts())
  for number in range(100):
    next(kept)
    assert len(read) == number + 1
