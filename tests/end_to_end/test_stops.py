"""Whatever stops a run, the same command ends as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from helpers import far, own_text

from moejax.core import exits, log, manifest
from moejax.run import report, screen
from moejax.train import goodput, loop, state_files

pytestmark = pytest.mark.slow  # each trains, and some start processes


def _assert_as_if_never_stopped(workdir, finished):
  """Metrics are equal to the bit, and so is all that the weights say."""
  assert own_text.records(workdir) == own_text.records(finished.workdir)
  same = own_text.report(finished.workdir)
  assert own_text.report(workdir) == {**same, 'workdir': str(workdir)}


def _start(flags, before=(), **environment):
  """The real command as a process; `before` is what is to start it."""
  return subprocess.Popen(
    [*before, sys.executable, '-m', 'moejax.main', *own_text.merged(flags)],
    cwd=own_text.ROOT,
    env={
      **os.environ,
      'PYTHONPATH': str(own_text.ROOT),
      **environment,
    },
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


@pytest.fixture(scope='module')
def trained(finished, tmp_path_factory):
  """A run that was stopped while it made its report."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'

  def interrupted(*_):
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(report, 'make', interrupted)
    ended = own_text.call(*own_text.flags(finished.text, workdir))
  assert ended.code == exits.INTERRUPTED
  (line,) = ended.err
  assert line.startswith('interrupted: what was finished is kept')
  return workdir


def test_goodput_is_in_the_metrics_and_in_a_table(finished):
  """All that a run does that is never stopped takes time; nothing is lost."""
  last = log.read(finished.workdir / 'metrics.jsonl')[-1]
  if goodput.SHARE not in last:  # a line of an evaluation
    last = log.read(finished.workdir / 'metrics.jsonl')[-2]
  seconds = {p: last[f'{goodput.NAME}{p}_s'] for p in goodput.PARTS}
  assert seconds.pop('lost') == 0
  assert min(seconds.values()) > 0, seconds
  assert last[goodput.SHARE] == pytest.approx(
    seconds['step'] / sum(seconds.values())
  )
  at = [line.startswith('seconds in  ') for line in finished.out].index(True)
  head, took, share = (line.split() for line in finished.out[at : at + 3])
  assert head[2:] == list(goodput.PARTS)
  assert took[:3] == ['of', '1', 'start']
  assert len(took[3:]) == len(share[1:]) == len(goodput.PARTS)
  # The table comes later, after the report.
  for part, shown in zip(goodput.PARTS, took[3:], strict=True):
    assert float(shown) >= round(seconds.get(part, 0), 1) - 0.1


@pytest.mark.soak
def test_stopped_while_it_reports_it_trains_no_more(
  finished, trained, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(trained, workdir)
  before = (workdir / 'metrics.jsonl').read_bytes()
  ended = own_text.call(*own_text.flags(finished.text, workdir))
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 6.' in ended.out
  assert not [line for line in ended.out if line.startswith('step ')]
  assert (workdir / 'metrics.jsonl').read_bytes() == before
  _assert_as_if_never_stopped(workdir, finished)


@pytest.mark.soak
def test_after_a_truncated_checkpoint_the_one_before_is_taken(
  finished, trained, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(trained, workdir)
  newest = workdir / 'checkpoints' / '00000006'
  big = max(newest.rglob('d/*'), key=lambda path: path.stat().st_size)
  size = big.stat().st_size
  with big.open('r+b') as file:
    file.truncate(size // 2)
  ended = own_text.call(*own_text.flags(finished.text, workdir))
  assert (ended.code, ended.err) == (exits.DONE, [])
  (line,) = [x for x in ended.out if 'damaged' in x]
  assert f'checkpoint {newest} is damaged: ' in line
  assert f'{size // 2:,} bytes, not {size:,}' in line
  assert line.endswith('trying the one before')
  assert 'Going on from the checkpoint of step 4.' in ended.out
  assert manifest.damage(newest) is None  # it was made again
  _assert_as_if_never_stopped(workdir, finished)


# Checkpoints have larger files, however their 1.2 MB are cut; metrics, events
# and versions have not.
FULL = (
  'import os, resource, sys\n'
  'resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n'
  'os.execv(sys.argv[1], sys.argv[1:])\n'
)


@pytest.mark.soak
def test_disk_full_while_saving(finished, trained, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained, workdir)
  for step in (4, 6):
    shutil.rmtree(workdir / 'checkpoints' / f'{step:08d}')
  flags = own_text.flags(finished.text, workdir)
  # What is compiled is read from disk and, on this disk, not written.
  keep = {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '1e9'}
  process = _start(flags, (sys.executable, '-c', FULL), **keep)
  out, err = process.communicate(timeout=300)
  assert process.returncode == exits.STOPPED, out + err
  checkpoints = workdir / 'checkpoints'
  assert err.splitlines() == [
    f'stopped: cannot save checkpoint {checkpoints}/00000004: File too large; '
    '2 is intact'
  ]
  # A .part of it may be left, which the next save removes.
  assert [p.name for p in checkpoints.glob('*[0-9]')] == ['00000002']
  assert manifest.damage(checkpoints / '00000002') is None
  assert not (workdir / 'report.json').exists()
  steps = [r['step'] for r in own_text.records(workdir) if 'loss' in r]
  assert steps in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])

  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 2.' in ended.out
  assert not [*checkpoints.glob('*.part')]
  _assert_as_if_never_stopped(workdir, finished)


@pytest.mark.soak
def test_a_second_run_is_turned_away_and_ctrl_c_saves(
  finished, tmp_path, monkeypatch
):
  """In one process; with two of them in `make test-soak`, below."""
  workdir, seconds = tmp_path / 'run', []
  flags = own_text.flags(finished.text, workdir)
  inner = loop._report

  def report(job, meter, step, metrics):
    if step == 2:
      seconds.append(own_text.call(*flags))
      os.kill(os.getpid(), signal.SIGINT)
    return inner(job, meter, step, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(loop, '_report', report)
    first = own_text.call(*flags)
  (second,) = seconds
  _assert_turned_away(second, workdir)
  step = _assert_interrupted(first, workdir, own_text.STEPS)
  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert f'Going on from the checkpoint of step {step}.' in ended.out
  _assert_as_if_never_stopped(workdir, finished)


@pytest.mark.soak
def test_a_closed_pipe_does_not_end_a_run(finished, tmp_path):
  workdir = tmp_path / 'run'
  process = _start(own_text.flags(finished.text, workdir))
  process.stdout.readline()
  process.stdout.close()  # as `| head -1` does
  with process.stderr as err:
    assert err.read().splitlines() == [screen.GOES_ON]
  assert process.wait() == exits.DONE
  _assert_as_if_never_stopped(workdir, finished)


def _assert_turned_away(second, workdir):
  assert second.code == exits.BAD_INPUT
  assert second.out == []
  assert second.err == [
    f'error: {workdir} is in use by another process; wait for it, or use '
    'another --workdir'
  ]


def _assert_interrupted(first, workdir, steps):
  """Returns the step after which the run was interrupted."""
  assert first.code == exits.INTERRUPTED
  (line,) = first.err
  step = max(record['step'] for record in own_text.records(workdir))
  assert 1 <= step < steps
  assert line == (
    f'interrupted: SIGINT at step {step} of {steps}; the state is saved in '
    f'{workdir}. Run the same command to go on'
  )
  return step


@pytest.fixture(scope='module')
def two_at_once(finished, tmp_path_factory):
  """A process is stopped in mid-run, a second run tries, then comes Ctrl-C.

  Returns:
    The flags, how the second ended, and how the process did.
  """
  workdir = tmp_path_factory.mktemp('two') / 'run'
  flags = (
    *own_text.flags(finished.text, workdir),
    '--config.train.steps=60',
    '--config.train.checkpoint_every=60',
    '--config.train.eval_every=60',
    '--config.report.samples=false',
    '--config.report.eval_batches=1',
  )
  process = _start(flags)
  try:
    _wait_for_step(workdir, process)
    process.send_signal(signal.SIGSTOP)
    second = own_text.call(*flags)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
  finally:
    process.kill()  # that is nothing to a process that has ended
  first = own_text.Ended(process.returncode, out.splitlines(), err.splitlines())
  return workdir, flags, second, first


def _wait_for_step(workdir, process):
  """Until a first step is in metrics.jsonl."""
  deadline = time.monotonic() + 200
  path = workdir / 'metrics.jsonl'
  while not (path.exists() and path.stat().st_size):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.005)


@pytest.mark.soak
def test_a_second_run_in_the_same_workdir_is_turned_away(two_at_once):
  workdir, _, second, _ = two_at_once
  _assert_turned_away(second, workdir)


@pytest.mark.soak
def test_ctrl_c_saves_exits_75_and_the_same_command_goes_on(two_at_once):
  workdir, flags, _, first = two_at_once
  step = _assert_interrupted(first, workdir, 60)
  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert f'Going on from the checkpoint of step {step}.' in ended.out
  steps = [r['step'] for r in own_text.records(workdir) if 'loss' in r]
  assert steps == [*range(1, 61)]


@pytest.mark.soak
def test_a_workdir_on_an_object_store(finished, tmp_path, monkeypatch):
  """Stopped and gone on: all but the arrays, which Orbax writes by itself."""
  store = far.store(monkeypatch, tmp_path / 'gs')
  for name in ('begin_write', 'read'):
    inner = getattr(state_files.StateFiles, name)
    monkeypatch.setattr(
      state_files.StateFiles,
      name,
      lambda self, folder, *arguments, inner=inner: inner(
        self, epath.Path(store.here(folder)), *arguments
      ),
    )
  short = '--config.report.samples=false', '--config.report.eval_batches=1'
  flags = (*own_text.flags(finished.text, 'gs://bucket/run'), *short)
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    ended = own_text.call(*flags)
  assert ended.code == exits.INTERRUPTED, ended
  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 3.' in ended.out
  workdir = tmp_path / 'gs' / 'bucket' / 'run'
  assert own_text.records(workdir) == own_text.records(finished.workdir)
  events = [*(workdir / 'tensorboard').iterdir()]
  assert len(events) == 2
  newest = workdir / 'checkpoints' / f'{own_text.STEPS:08d}'
  assert manifest.damage(newest) is None
