"""The sweep command: killed and interrupted, it ends as it would have."""

import contextlib
import io
import json
import math
import signal
import subprocess
import sys
import time

import pytest
from helpers import own_text

from moejax.cli import sweep
from moejax.core import errors, exits, files, log

STEPS = 300
SWEEP = """
from moejax import sweep


def get_sweep():
  short = dict({overrides})
  runs = sweep.run('{config}', short, 'short')
  missing = {{**short, 'data.files': '/no/such/text.txt'}}
  bad = sweep.run('{config}', missing, 'short')
  long = {{**short, 'train.steps': {steps}, 'train.eval_every': {steps}}}
  del long['train.checkpoint_every']
  many = sweep.run('{config}', long, 'short')
  return [
    *sweep.product(bad, {{'opt.clip_norm': [7]}}),
    *sweep.seeds(runs, 2),
    *sweep.product(many, {{'train.checkpoint_every': [{steps}]}}),
  ]
"""
BAD, LONG = 'short-clip_norm=7', f'short-checkpoint_every={STEPS}'
SHORT = ('short-seed=0', 'short-seed=1')


def _sweep_file(path, text):
  """A bad run, two seeds of a short one, and a long one."""
  config, *flags = own_text.FLAGS
  flags += [f'--config.data.files={text}']
  pairs = [tuple(flag.removeprefix('--config.').split('=')) for flag in flags]
  pairs += [('report.eval_batches', 1), ('report.samples', False)]
  path.write_text(
    SWEEP.format(
      config=config.removeprefix('--config='), overrides=pairs, steps=STEPS
    )
  )
  return path


def _call(*flags):
  """The command in this process; those that it starts are real."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = exits.call(sweep.main, flags)
  return own_text.Ended(code, *(x.getvalue().splitlines() for x in (out, err)))


def _start(flags):
  """As a script does in the background: SIGINT is ignored at the start."""
  return subprocess.Popen(
    ['sh', '-c', 'trap "" INT; exec "$@"', 'sh', sys.executable, '-m']
    + ['moejax.cli.sweep', *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _step(folder):
  path = folder / LONG / 'metrics.jsonl'
  steps = [r['step'] for r in log.read(path)] if path.exists() else []
  return max(steps, default=0)


def _wait_beyond(step, folder, process):
  deadline = time.monotonic() + 200
  while _step(folder) <= step:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _wait_for_reports(names, folder, process):
  """Until these runs are finished: beside other work one may take longer."""
  deadline = time.monotonic() + 200
  while not all((folder / name / 'report.json').exists() for name in names):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  for name in names:
    _wait_until_free(folder / name)


def _wait_until_free(folder):
  """Until no process has the run's folder any more."""
  deadline = time.monotonic() + 100
  while True:
    with contextlib.suppress(errors.InputError), files.locked(folder, print):
      return
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _times(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def swept(finished, tmp_path_factory):
  """A sweep that was killed, started again, interrupted, and ended."""
  folder = tmp_path_factory.mktemp('sweep')
  path = _sweep_file(folder / 'mine.py', finished.text)
  workdir, out = folder / 'work', folder / 'doc.md'
  places = [f'--sweep={path}', f'--workdir={workdir}']
  flags = [*places, f'--out={out}']
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(own_text.ROOT))
    killed = _start([*flags, '--processes=2'])
    _wait_beyond(0, workdir, killed)
    _wait_for_reports(SHORT, workdir, killed)
    killed.kill()
    killed.communicate()
    _wait_until_free(workdir / LONG)
    at = _step(workdir)
    listed = _call(*places, '--list')
    before = {name: _times(workdir / name) for name in SHORT}

    stopped = _start(flags)
    _wait_beyond(at, workdir, stopped)
    stopped.send_signal(signal.SIGINT)
    output = stopped.communicate(timeout=100)
    table = out.read_text()
    ended = _call(*flags)
  interrupted = own_text.Ended(
    stopped.returncode, *(text.splitlines() for text in output)
  )
  return {
    'flags': flags,
    'places': places,
    'workdir': workdir,
    'out': out,
    'listed': listed,
    'before': before,
    'interrupted': interrupted,
    'table': table,
    'ended': ended,
    'at': at,
  }


@pytest.mark.soak
def test_killed_it_has_saved_what_was_running(swept):
  assert 1 <= swept['at'] < STEPS
  kept = f'{LONG}  interrupted at step {swept["at"]} of {STEPS}'
  assert [line for line in swept['listed'].out if line.startswith(kept)]
  assert '2 of 4 finished' in swept['listed'].out[-1]


@pytest.mark.soak
def test_finished_runs_are_not_touched(swept):
  for name, before in swept['before'].items():
    assert before
    assert _times(swept['workdir'] / name) == before


@pytest.mark.soak
def test_ctrl_c_saves_and_shows_the_table(swept):
  ended = swept['interrupted']
  assert ended.code == exits.INTERRUPTED
  assert ended.err[-1].startswith('interrupted: what was finished is kept')
  line = next(x for x in swept['table'].splitlines() if f'| {LONG}' in x)
  assert 'interrupted: at step' in line
  assert f'of {STEPS}' in line


@pytest.mark.soak
def test_at_the_end_all_is_there_and_the_bad_run_is_named(swept):
  workdir, ended = swept['workdir'], swept['ended']
  assert ended.code == exits.STOPPED
  assert f'1 of 4 runs failed: {BAD};' in ended.err[-1]
  steps = [r['step'] for r in own_text.records(workdir / LONG) if 'loss' in r]
  assert steps == [*range(1, STEPS + 1)]
  said = (workdir / LONG / 'log.txt').read_text()
  assert said.count('Going on from the checkpoint of step') == 2
  found = json.loads((workdir / 'results.json').read_text())
  runs = {run['name']: run for run in found['runs']}
  assert {run['status'] for run in runs.values()} == {'finished', 'failed'}
  assert "'/no/such/text.txt'" in runs[BAD]['note']
  rows = {row['name']: row for row in found['rows']}
  assert rows['short']['num'] == 2
  assert rows['short']['spread'] > 0  # the seeds are different ones
  assert rows['short']['values']['total'] == runs[LONG]['total']
  ratio = STEPS / own_text.STEPS
  assert math.isclose(runs[LONG]['flops'], ratio * runs[SHORT[0]]['flops'])
  assert 'Sweep mine' in (workdir / 'report.html').read_text()
  assert (workdir / 'results.png').exists()
  text = swept['out'].read_text()
  written = (workdir / 'results.md').read_text()
  assert written.partition('\n\n')[0] in text  # the first table
  # The seeds of one row alone: no pair to test.
  assert 'are not equal in tokens' in ' '.join(written.split())
  _, _, unfinished = written.partition('\nNot finished:\n')
  assert f'({workdir / BAD / "log.txt"})' in unfinished
  assert '![mine](mine.png)' in text
  assert (swept['out'].parent / 'mine.png').exists()


@pytest.mark.soak
def test_a_short_report_is_of_the_first_batches(swept, finished):
  report = own_text.report(swept['workdir'] / SHORT[0])
  whole = own_text.report(finished.workdir)
  assert report['samples'] == []
  assert whole['samples']
  (short,), (full,) = (r['domains'].values() for r in (report, whole))
  assert 0 < short['tokens'] < full['tokens']
  assert (short['unigram'], short['xz']) == (None, None)
  assert full['unigram'] > 0
  # Bits per nat are those of the whole text.
  rate = full['bits_per_byte'] / full['loss']
  assert math.isclose(short['bits_per_byte'], rate * short['loss'])


@pytest.mark.soak
def test_a_changed_config_is_refused_before_anything_is_trained(swept):
  ended = _call(*swept['flags'], '--config.opt.peak_lr=0.5')
  assert (ended.code, ended.out) == (exits.BAD_INPUT, [])
  (line,) = ended.err
  assert 'the sweep has changed since' in line
  assert 'and 2 more was trained with another config: opt.peak_lr' in line
  assert 'use another --workdir' in line


@pytest.mark.soak
def test_the_list_does_not_take_other_runs_for_finished_ones(swept):
  same = _call(*swept['places'], '--list')
  assert same.code == exits.DONE
  assert same.out[-1].startswith('3 of 4 finished')
  changed = _call(*swept['places'], '--list', '--config.opt.peak_lr=0.5')
  assert changed.out[-1].startswith('0 of 4 finished')
  lines = [line for line in changed.out if 'another config: opt.' in line]
  assert len(lines) == 3
  # What changes no result changes no run.
  free = _call(*swept['places'], '--list', '--config.train.log_every=3')
  assert free.out[-1].startswith('3 of 4 finished')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--only=short-sede=0'], "did you mean 'short-seed=0'?"),
    (['--only=,'], "unknown run in --only ','; known are: short, short-"),
    (['--list', '--out=doc.md'], '--list writes no table to --out=doc.md'),
    (['--config.opt.peek_lr=1'], "run 'short-clip_norm=7': unknown config key"),
    (['--processes=0'], '--processes=0 must be 1 or more'),
    (['--out={}/no/folder.md'], 'there is no folder'),
    (['--out={}'], 'is a folder; name a file in it'),
  ],
)
def test_bad_flags_get_one_line(flags, message, tmp_path):
  path = _sweep_file(tmp_path / 'mine.py', 'text.txt')
  workdir = tmp_path / 'work'
  ended = _call(
    f'--sweep={path}',
    f'--workdir={workdir}',
    *[flag.format(tmp_path) for flag in flags],
  )
  assert (ended.code, ended.out) == (exits.BAD_INPUT, [])
  (line,) = ended.err
  assert message in line
  assert not workdir.exists()


def test_only_takes_runs_and_groups(tmp_path):
  path = _sweep_file(tmp_path / 'mine.py', 'text.txt')
  flags = (f'--sweep={path}', f'--workdir={tmp_path}/work', '--list')
  for only, names in {
    'short': SHORT,
    f'short-seed=1,{BAD}': (BAD, SHORT[1]),
  }.items():
    ended = _call(*flags, f'--only={only}')
    assert [line.split()[0] for line in ended.out[:-1]] == list(names)
    assert {line.split()[1] for line in ended.out[:-1]} == {'not'}  # run
