"""A workdir that goes, or takes nothing more; a fast disk beside it.

A workdir on an object store is in test_stops.py, whose run it is compared with.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import types

import jax.numpy as jnp
import pytest
from etils import epath
from helpers import kills, own_text

from moejax.core import exits, manifest
from moejax.run import processes, resources
from moejax.train import checkpoint_folder, loop
from moejax.train.config import TrainConfig

# A real read-only folder, even for root: in a mount namespace of its own.
READ_ONLY = (
  'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
)


@pytest.fixture(scope='module')
def stopped(finished, tmp_path_factory):
  """A run with a checkpoint of step 2 and no other."""
  workdir = tmp_path_factory.mktemp('stopped') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    own_text.stop_after(patch, 2)
    ended = own_text.call(*own_text.flags(finished.text, workdir))
  assert ended.code == exits.INTERRUPTED
  assert os.listdir(workdir / 'checkpoints') == ['00000002']
  return workdir


def copy(stopped, tmp_path):
  return shutil.copytree(stopped, tmp_path / 'run')


@pytest.mark.soak
def test_a_workdir_that_vanishes_is_one_line_and_not_made_again(
  finished, stopped, tmp_path, monkeypatch
):
  workdir = copy(stopped, tmp_path)
  inner = loop._report

  def report(job, meter, step, metrics):
    if step == 4:
      shutil.rmtree(workdir)
    return inner(job, meter, step, metrics)

  monkeypatch.setattr(loop, '_report', report)
  ended = own_text.call(*own_text.flags(finished.text, workdir))
  assert ended.code == exits.STOPPED
  assert ended.err == [
    f'stopped: {workdir}/metrics.jsonl has vanished; put {workdir} back, or '
    'start again'
  ]
  assert not workdir.exists()


@pytest.mark.soak
def test_a_read_only_folder_leaves_the_last_checkpoint(
  finished, stopped, tmp_path
):
  workdir = copy(stopped, tmp_path)
  folder = workdir / 'checkpoints'
  flags = own_text.flags(finished.text, workdir)
  sandbox = ['unshare', '-rm', 'sh', '-c', READ_ONLY, os.fspath(folder)]
  try:
    subprocess.run([*sandbox, 'true'], check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as e:
    pytest.skip(f'no mount namespaces here: {e}')
  done = subprocess.run(
    [*sandbox, sys.executable, '-m', 'moejax.main', *flags],
    cwd=own_text.ROOT,
    env={**os.environ, 'PYTHONPATH': str(own_text.ROOT)},
    text=True,
    capture_output=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == exits.STOPPED, done.stdout + done.stderr
  assert done.stderr.splitlines() == [
    f'stopped: cannot save checkpoint {folder}/00000004: Read-only file '
    'system; 2 is intact'
  ]
  assert manifest.damage(folder / '00000002') is None
  assert own_text.call(*flags).code == exits.DONE
  kills.assert_equal(finished.workdir, workdir)


@pytest.mark.soak
def test_after_a_crash_it_goes_on_from_the_fast_disk(
  finished, tmp_path, monkeypatch
):
  workdir, disk = tmp_path / 'run', tmp_path / 'disk'
  flags = (
    *own_text.flags(finished.text, workdir),
    f'--config.train.local_checkpoints={disk}',
    '--config.train.local_checkpoint_every=1',
  )
  inner = loop._report

  def report(job, meter, step, metrics):
    if step == 4:
      raise RuntimeError('as a kill: nobody saves')
    return inner(job, meter, step, metrics)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, '_report', report)
    with pytest.raises(RuntimeError, match='as a kill'):
      own_text.call(*flags)
  assert os.listdir(workdir / 'checkpoints') == ['00000002']
  (near,) = disk.iterdir()
  assert os.listdir(near) == ['process_0']
  assert os.listdir(near / 'process_0') == ['00000003']
  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 3.' in ended.out
  kills.assert_equal(finished.workdir, workdir)


def test_a_new_run_of_that_name_is_not_that_of_the_fast_disk(tmp_path):
  run = types.SimpleNamespace(
    train=TrainConfig(local_checkpoints=str(tmp_path / 'disk'))
  )
  parts = types.SimpleNamespace(run=run, processes=processes.ALONE)
  screen = types.SimpleNamespace(line=None)
  workdir = epath.Path(tmp_path / 'run')

  def place():
    workdir.mkdir(exist_ok=True)
    with resources._near(parts, workdir, screen) as near:
      near.save(1, {'x': jnp.zeros(3)}, {})
      near.wait()
      return near.latest()[0], sorted(os.listdir(tmp_path / 'disk'))

  _, first = place()
  assert place()[1] == first
  workdir.rmtree()
  _, second = place()
  assert len(second) == 2


@pytest.mark.soak
def test_signals_inside_a_save_do_not_tear_it(finished, tmp_path, monkeypatch):
  """SIGTERM while step 2 is saved; another, and Ctrl-C, while that is."""
  workdir = tmp_path / 'run'
  flags = own_text.flags(finished.text, workdir)
  inner = checkpoint_folder.CheckpointFolder.complete
  sent = []

  def complete(self, step, meta):
    for which in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
      sent.append((step, which))
      os.kill(os.getpid(), which)
      time.sleep(0.02)
    inner(self, step, meta)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint_folder.CheckpointFolder, 'complete', complete)
    # The second Ctrl-C, if there is a second save, asks to end at once.
    ended = own_text.call(*flags)
  assert ended.code == exits.INTERRUPTED, ended
  (line,) = ended.err
  assert line.startswith('interrupted: ')
  newest = max((workdir / 'checkpoints').glob('0*'))
  assert '.' not in newest.name
  assert manifest.damage(newest) is None
  assert own_text.call(*flags).code == exits.DONE
  kills.assert_equal(finished.workdir, workdir)
