"""An import that was stopped reads what it has not, and nothing else."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
from helpers import hf

from moejax.cli import convert
from moejax.convert import folder, load, staging, tensor_files
from moejax.core import errors, exits, files, trees
from moejax.model import build
from moejax.run import restore

FOLDER = hf.GOLDEN / 'deepseek_v3'


class StoppedError(Exception):
  pass


@pytest.fixture
def plan():
  return load.plan(folder.open_folder(str(FOLDER)))


@pytest.fixture
def reads(monkeypatch):
  """The names of what is read; `stop_at` reads it raises."""
  return Reads(monkeypatch)


class Reads:
  def __init__(self, patch):
    self.files, self.stop_at, self.act = [], None, self._stop
    inner = tensor_files.StoredTensor.read

    def read(entry):
      if len(self.files) == self.stop_at:
        self.act()
      self.files.append((entry.file, entry.start))
      return inner(entry)

    patch.setattr(tensor_files.StoredTensor, 'read', read)

  @staticmethod
  def _stop(*_):
    raise StoppedError


def stage(plan, tmp_path):
  return staging.Staging(tmp_path / staging.NAME, staging.source(plan))


def read(plan, staged):
  model = build.build(plan.config, hf.one_device())
  return load.weights(plan, model, into=staged)


def stopped(plan, reads, tmp_path, at):
  """Stops before the read of that number."""
  reads.stop_at = at
  with pytest.raises(StoppedError):
    read(plan, stage(plan, tmp_path))
  reads.files.clear()
  reads.stop_at = None


def assert_same(found):
  wanted = trees.leaves(hf.read(FOLDER)[2])
  for path, leaf in trees.leaves(found).items():
    assert np.asarray(leaf).tobytes() == np.asarray(wanted[path]).tobytes(), (
      path
    )


def journal(tmp_path):
  return tmp_path / staging.NAME / staging.JOURNAL


def test_what_is_entered_is_not_read_again(plan, reads, tmp_path, monkeypatch):
  monkeypatch.setattr(staging, 'EVERY', 10_000)
  stopped(plan, reads, tmp_path, 30)
  stopped(plan, reads, tmp_path, 10)
  lines = journal(tmp_path).read_text().splitlines()[1:]
  there = [name for line in lines for name in json.loads(line)]
  assert 10 < len(there) < 40
  assert len(set(there)) == len(there)
  # The mapped files are arrays: they are complete, and of another process.
  found = read(plan, stage(plan, tmp_path))
  entries = plan.folder.tensors
  assert sorted(reads.files) == sorted(
    (entries[t.name].file, entries[t.name].start)
    for t in plan.tensors
    if t.name not in there
  )
  assert_same(found)


@pytest.mark.parametrize('fallocate', [True, False])
def test_when_all_is_entered_nothing_is_read(
  fallocate, plan, reads, tmp_path, monkeypatch
):
  if not fallocate:
    monkeypatch.delattr(os, 'posix_fallocate')
  staged = stage(plan, tmp_path)
  read(plan, staged)
  staged.flush()
  assert len(reads.files) == len(plan.tensors)
  reads.files.clear()
  found = read(plan, stage(plan, tmp_path))
  assert reads.files == []
  assert_same(found)


def test_a_torn_line_is_no_entry(plan, reads, tmp_path):
  stopped(plan, reads, tmp_path, 20)
  names = [tensor.name for tensor in plan.tensors]
  with open(journal(tmp_path), 'a') as f:
    f.write(json.dumps(names[:10]) + '\n')
    f.write(json.dumps(names[10:20])[:-3])
  staged = stage(plan, tmp_path)
  assert [staged.has(name) for name in names[:20]] == [True] * 10 + [False] * 10
  read(plan, staged)
  staged.flush()
  assert len(reads.files) == len(names) - 10
  assert all(stage(plan, tmp_path).has(name) for name in names)


@pytest.mark.parametrize(
  ('owner', 'flush'), [(np.memmap, 'flush'), (files, 'sync_folder')]
)
def test_entered_is_what_was_flushed(owner, flush, plan, tmp_path, monkeypatch):
  """Bytes, and the names of the files that have them."""
  staged = stage(plan, tmp_path)
  read(plan, staged)

  with monkeypatch.context() as patch:
    patch.setattr(owner, flush, Reads._stop)
    with pytest.raises(StoppedError):
      staged.flush()
  assert not any(stage(plan, tmp_path).has(t.name) for t in plan.tensors)


def test_what_was_half_written_is_written_over(plan, reads, tmp_path):
  stopped(plan, reads, tmp_path, 40)
  for file in journal(tmp_path).parent.glob('*[0-9]'):
    file.write_bytes(b'\xff' * file.stat().st_size)
  found = trees.leaves(read(plan, stage(plan, tmp_path)))
  # What has no tensor is never written to.
  assert_same({tensor.path: found[tensor.path] for tensor in plan.tensors})


@pytest.mark.parametrize('change', ['file', 'config', 'folder', 'rule'])
def test_another_source_is_one_line(change, tmp_path):
  there, turn = tmp_path / 'there', lambda plan: plan
  shutil.copytree(FOLDER, there)
  stage(load.plan(folder.open_folder(str(there))), tmp_path)
  if change == 'file':
    os.utime(there / folder.SINGLE, (1, 1))
  elif change == 'config':
    text = (there / folder.CONFIG).read_text()
    (there / folder.CONFIG).write_text(text + ' ')
  elif change == 'rule':
    turn = lambda plan: dataclasses.replace(plan, tensors=plan.tensors[::-1])
  else:
    there = hf.GOLDEN / 'olmoe'
  with pytest.raises(errors.InputError, match='remove .* to begin again') as e:
    stage(turn(load.plan(folder.open_folder(str(there)))), tmp_path)
  assert '\n' not in str(e.value)


def test_a_folder_without_journal_is_begun_anew(plan, tmp_path):
  read(plan, stage(plan, tmp_path))
  journal(tmp_path).unlink()
  staged = stage(plan, tmp_path)
  assert staged.num_bytes < 100_000
  assert [file.name for file in journal(tmp_path).parent.iterdir()] == [
    staging.JOURNAL
  ]


def test_a_removal_that_was_stopped_can_be_told_from_others(
  plan, tmp_path, monkeypatch
):
  staged = stage(plan, tmp_path)
  read(plan, staged)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', Reads._stop)
    with pytest.raises(StoppedError):
      staged.remove()
  assert [file.name for file in journal(tmp_path).parent.iterdir()] == [
    staging.JOURNAL
  ]
  stage(plan, tmp_path).remove()
  assert not (tmp_path / staging.NAME).exists()


def call(workdir):
  return exits.call(convert.main, ['import', str(FOLDER), '--workdir', workdir])


def test_sigterm_is_code_75_and_the_same_command_goes_on(
  reads, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(staging, 'EVERY', 10_000)
  workdir = str(tmp_path / 'work')
  reads.stop_at = 40
  reads.act = lambda: os.kill(os.getpid(), signal.SIGTERM)
  assert call(workdir) == exits.INTERRUPTED
  err = capsys.readouterr().err
  assert err.count('\n') == 1
  assert 'run the same command to go on' in err
  reads.stop_at = None
  assert call(workdir) == exits.DONE
  assert 'Going on: ' in capsys.readouterr().out
  assert not (tmp_path / 'work' / staging.NAME).exists()
  model = build.build(restore.run_of(workdir).model, hf.one_device())
  assert_same(restore.weights(model, workdir, print)[0])


def test_a_disk_too_small_is_one_line(plan, tmp_path, capsys, monkeypatch):
  size = 4 * sum(tensor.size for tensor in plan.tensors)
  usage = shutil.disk_usage(tmp_path)
  for free, code in [(1.9 * size, 2), (2.3 * size, 0)]:
    there = usage._replace(free=free)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: there)  # noqa: B023
    assert call(str(tmp_path / 'work')) == code
  err = capsys.readouterr().err
  assert 'twice the weights in float32' in err
  assert err.count('\n') == 1
