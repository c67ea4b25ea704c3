"""More of tests/multi_host: every split of eight devices, and more ends."""

import shutil
import signal
import sys
import types

import pytest
from helpers import own_text, processes

from moejax.core import exits

TOLERANCE = 2e-6
MESHES = {
  'data': (),
  'fsdp': ('--config.mesh.data=2', '--config.mesh.fsdp=4'),
  'expert': ('--config.mesh.data=2', '--config.mesh.expert=4'),
  'all': (
    '--config.mesh.data=1',
    '--config.mesh.fsdp=2',
    '--config.mesh.expert=2',
    '--config.mesh.model=2',
  ),
}
SPLITS = {'2 x 4': (2, 4), '4 x 2': (4, 2), '8 x 1': (8, 1)}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A text; what is packed and compiled is kept for all."""
  folder = tmp_path_factory.mktemp('many')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'rows'))
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'compiled'))
    text = own_text.write_stories(folder / 'stories.jsonl')
    yield types.SimpleNamespace(folder=folder, text=text)


def _split(base, workdir, split, *flags):
  """Metrics and report of a run in so many processes."""
  flags = (*own_text.flags(base.text, workdir), *flags)
  with processes.Processes(*SPLITS[split], flags) as several:
    ended = several.wait()
  assert [e.code for e in ended] == [exits.DONE] * len(ended), ended
  assert [e.err for e in ended] == [[]] * len(ended)
  report = {**own_text.report(workdir), 'workdir': None}
  return own_text.records(workdir), report


def _worst(found, wanted):
  """The largest difference of two runs' values, of their size."""
  assert [r.keys() for r in found] == [r.keys() for r in wanted]
  return max(
    abs(a[k] - b[k]) / max(abs(b[k]), 1e-9)
    for a, b in zip(found, wanted, strict=True)
    for k in a
  )


@pytest.fixture(scope='module')
def alone(base):
  """On one device of one process."""
  workdir = base.folder / 'alone'
  flags = own_text.flags(base.text, workdir)
  with processes.Processes(1, 1, flags) as one:
    (ended,) = one.wait()
  assert ended.code == exits.DONE, ended
  return own_text.records(workdir)


@pytest.mark.parametrize('mesh', MESHES)
def test_the_same_mesh_is_equal_to_the_bit(base, alone, tmp_path, mesh, capsys):
  """However many processes; and one process, and one device, are close."""
  flags = MESHES[mesh]
  two = _split(base, tmp_path / 'two', '2 x 4', *flags)
  four = _split(base, tmp_path / 'four', '4 x 2', *flags)
  assert two == four
  workdir = tmp_path / 'one'
  ended = own_text.call(*own_text.flags(base.text, workdir), *flags)
  assert ended.code == exits.DONE, ended
  one = own_text.records(workdir)
  worst = _worst(two[0], one), _worst(two[0], alone), _worst(one, alone)
  text = ', '.join(f'{w:.1e}' for w in worst)
  with capsys.disabled():  # for docs/many_hosts.md
    sys.stdout.write(f'\n{mesh}: 2x4 to 1x8, 2x4 to 1x1, 1x8 to 1x1: {text}\n')
  assert max(worst) < TOLERANCE


def test_the_same_run_twice_is_equal_to_the_bit(base, tmp_path):
  first = _split(base, tmp_path / 'a', '2 x 4', *MESHES['expert'])
  assert _split(base, tmp_path / 'b', '2 x 4', *MESHES['expert']) == first


def test_four_processes_to_one_and_back(base, tmp_path):
  """A checkpoint of four is read by one, whose is read by two."""
  never, workdir = tmp_path / 'never', tmp_path / 'run'
  wanted = _split(base, never, '4 x 2', *MESHES['all'])[0]
  shutil.copytree(never, workdir)
  _back_to(workdir, 2, of=(2, 4, 6))
  ended = own_text.call(*own_text.flags(base.text, workdir))
  assert 'Going on from the checkpoint of step 2.' in ended.out, ended
  assert _worst(own_text.records(workdir), wanted) < TOLERANCE
  _back_to(workdir, 4, of=(4, 6))
  found, _ = _split(base, workdir, '2 x 4', *MESHES['expert'])
  assert _worst(found, wanted) < TOLERANCE


def _back_to(workdir, step, of):
  (workdir / 'report.json').unlink()
  for later in of:
    if later > step:
      shutil.rmtree(workdir / 'checkpoints' / f'{later:08d}')


def test_sigterm_to_one_stops_both_and_one_process_goes_on(
  base, tmp_path, monkeypatch
):
  """Also from the mesh data=2 x fsdp=2 x expert=2 to data=8."""
  long = '--config.train.steps=3000'
  flags = (*own_text.flags(base.text, tmp_path / 'run'), long)
  mesh = '--config.mesh.fsdp=2', '--config.mesh.expert=2'
  with processes.Processes(2, 4, (*flags, *mesh)) as two:
    two.wait_for_step(tmp_path / 'run', 3)
    two.all[1].send_signal(signal.SIGTERM)
    ended = two.wait()
  step = max(r['step'] for r in own_text.records(tmp_path / 'run'))
  line = (
    f'interrupted: SIGTERM (a preemption notice) at step {step} of 3000; the '
    f'state is saved in {tmp_path}/run. Run the same command to go on'
  )
  assert [e.code for e in ended] == [exits.INTERRUPTED] * 2
  assert [e.err for e in ended] == [[line], [f'process 1: {line}']]

  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 2)
    again = own_text.call(*flags)
  assert again.code == exits.INTERRUPTED, again
  assert f'Going on from the checkpoint of step {step}.' in again.out
  never = own_text.flags(base.text, tmp_path / 'never_stopped')
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, step + 2)
    own_text.call(*never, long)

  found, wanted = (
    own_text.records(tmp_path / name) for name in ('run', 'never_stopped')
  )
  assert _worst(found, wanted) < TOLERANCE


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_process_and_the_same_commands_again(base, tmp_path, victim):
  """Equal to the bit with a run that was never killed."""
  flags = MESHES['fsdp']
  never = _split(base, tmp_path / 'never', '2 x 4', *flags)
  workdir = tmp_path / 'run'
  all_flags = (*own_text.flags(base.text, workdir), *flags)
  with processes.Processes(2, 4, all_flags) as two:
    two.wait_for_step(workdir, 3)
    two.all[victim].kill()
    ended = two.wait()
  other = ended[1 - victim]
  assert other.code == exits.LOST, other
  (line,) = [x for x in other.err if 'lost: ' in x]
  assert f'lost: process {victim} (' in line
  assert _split(base, workdir, '2 x 4', *flags) == never


def test_a_process_that_is_silent_ends_the_others():
  with processes.steps(2) as two:
    two.wait_for_line(1, 'step 20')
    two.all[1].send_signal(signal.SIGSTOP)
    code = two.all[0].wait(timeout=30)
    err = two.all[0].stderr.read()
  assert code == exits.LOST
  (line,) = processes.own_lines(err)
  assert line.startswith('lost: process 1 (')
  assert 'has been silent for 3 s' in line


@pytest.mark.parametrize('victim', [1])
def test_bad_input_to_one_of_them_ends_all(victim):
  with processes.steps(2, f'--fail={victim}') as two:
    ended = two.wait()
  one, other = ended[victim], ended[1 - victim]
  assert one.code == exits.BAD_INPUT
  front = 'process 1: '
  assert one.err == [f'{front if victim else ""}error: no such file']
  assert other.code == exits.LOST
  (line,) = other.err
  assert line.startswith(f'{"" if victim else front}lost: process {victim} (')
  assert line.endswith(') stopped: error: no such file')


def test_a_bug_in_one_ends_all():
  with processes.steps(2, '--bug=1') as two:
    first, second = two.wait()
  assert (first.code, second.code) == (exits.LOST, exits.BUG)
  assert second.err[0] == 'process 1: Traceback (most recent call last):'
  assert first.err[-1].endswith(
    ') stopped: a bug: ZeroDivisionError: of process 1'
  )


def test_a_barrier_names_who_did_not_come():
  with processes.steps(3, '--nap=2') as three:
    ended = three.wait()
  assert [e.code for e in ended] == [exits.LOST] * 3
  (line,) = ended[2].err
  name = line.partition('s process 0 ')[2].partition(')')[0] + ')'
  assert line == (
    f'process 2: lost: after 1 s process 0 {name}, process 1 {name} had not '
    "come to 'never opened'; see what they wrote last"
  )
  for other in ended[:2]:
    assert other.err[0].endswith(line.removeprefix('process 2: lost: '))


def test_process_0_that_never_comes_is_named():
  with processes.steps(1, '--join-timeout=1', of=2, first=1) as one:
    (ended,) = one.wait()
  assert ended.code == exits.LOST
  (line,) = ended.err
  assert line.startswith(
    'process 1: lost: after 1 s process 0 of 2 had not come: nobody answers '
  )
