"""The same run on one process and on two: the same losses, and back again.

All have eight devices. What two processes add up through their network is added
in another order than what one adds up in its memory, so a loss may differ in
its last bits; docs/many_hosts.md says what is equal to the bit.
"""

import json
import os
import pathlib
import shutil
import signal
import types

import pytest
from helpers import kills, own_text, processes

from moejax.core import compile_cache, exits, manifest

pytestmark = pytest.mark.slow  # each starts processes
# Of a value's size; docs/many_hosts.md has what was measured.
TOLERANCE = 2e-6
# On which two processes go on where one was; each has half of the weights.
MESH = '--config.mesh.fsdp=4', '--config.mesh.expert=2'
KEEP = '--config.train.keep_checkpoints_every=3'
WATCHED = pathlib.Path(processes.__file__).with_name('watched.py')


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The run in one process, and its text."""
  folder = tmp_path_factory.mktemp('one')
  text = own_text.write_stories(folder / 'stories.jsonl')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'rows'))
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'compiled'))
    for name, value in compile_cache.KEEP_ALL.items():
      patch.setenv(name, value)
    ended = own_text.call(*own_text.flags(text, folder / 'run'), KEEP)
    assert ended.code == 0, ended
    yield types.SimpleNamespace(text=text, workdir=folder / 'run')


@pytest.fixture(scope='module')
def two(one, tmp_path_factory):
  """Two processes that went on from its second step, on another mesh."""
  return _two(one, tmp_path_factory.mktemp('two'))


@pytest.fixture(scope='module')
def stopped(one, tmp_path_factory):
  """The same, with Ctrl-C to process 1 in the first step that they take."""
  return _two(one, tmp_path_factory.mktemp('stopped'), '--stop=1:1:SIGINT')


def _two(one, folder, *more, flags=()):
  workdir, seen = folder / 'run', folder / 'seen'
  if not workdir.exists():
    _copy(one.workdir, workdir, without=(4, 6))
  program = str(WATCHED), f'--seen={seen}', *more
  flags = (*own_text.flags(one.text, workdir), *MESH, KEEP, *flags)
  with processes.Processes(2, 4, flags, program=program) as both:
    ended = both.wait()
  return types.SimpleNamespace(workdir=workdir, ended=ended, seen=seen)


def _copy(old, new, without):
  """A workdir as it was before these checkpoints."""
  shutil.copytree(old, new)
  (new / 'report.json').unlink()
  for step in without:
    shutil.rmtree(new / 'checkpoints' / f'{step:08d}')


def _assert_close(workdir, wanted):
  """The same steps and names; values that differ by rounding at most."""
  found, other = own_text.records(workdir), own_text.records(wanted)
  assert [r['step'] for r in found] == [r['step'] for r in other]
  for a, b in zip(found, other, strict=True):
    assert a == pytest.approx(b, rel=TOLERANCE, abs=1e-9)
  found, other = own_text.report(workdir), own_text.report(wanted)
  assert found['samples'] == other['samples']
  assert found['experts'] == other['experts']
  domain = other['domains']['files']
  assert found['domains']['files'] == pytest.approx(domain, rel=TOLERANCE)


@pytest.mark.soak
def test_two_go_on_where_one_was(one, two):
  first, second = two.ended
  assert (first.code, first.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 2.' in first.out
  _assert_close(two.workdir, one.workdir)


@pytest.mark.soak
def test_process_0_alone_shows_and_writes(one, two):
  first, second = two.ended
  # Whatever the libraries print is not among `out` and `err`.
  assert '[Gloo]' not in first.written + second.written
  assert (second.code, second.out, second.err) == (exits.DONE, [], [])
  assert sorted(os.listdir(two.workdir)) == sorted(os.listdir(one.workdir))


@pytest.mark.soak
@pytest.mark.parametrize('batch', [2, 5, 'validation'])
def test_each_reads_its_share_and_no_more(two, batch):
  """Half of the rows of a batch, on a mesh that splits them eight ways."""
  shares = []
  for process in (0, 1):
    lines = (two.seen / f'{process}.jsonl').read_text().splitlines()
    found = [json.loads(line) for line in lines]
    rows = [line['rows'] for line in found if line['batch'] == batch]
    assert rows
    assert rows == rows[:1] * len(rows)
    shares.append(set(rows[0]))
  first, second = shares
  assert not first & second
  assert len(first) == len(second)
  assert first | second == {*range(len(first) * 2)}


@pytest.mark.soak
def test_each_writes_its_part_of_a_checkpoint(two):
  state = two.workdir / 'checkpoints' / '00000006' / 'state'
  for process in (0, 1):
    data = [*(state / f'ocdbt.process_{process}' / 'd').iterdir()]
    # Each has half of what is large.
    assert sum(path.stat().st_size for path in data) > 100_000


@pytest.mark.soak
def test_weights_after_the_step_where_they_go_on_are_kept_anew(one, two):
  """Those of step 3 and 6, which one process had kept."""
  for step in ('00000003', '00000006'):
    by_one, by_two = (x.workdir / 'kept' / step for x in (one, two))
    assert manifest.damage(by_two) is None
    assert not (by_one / 'state' / 'ocdbt.process_1').exists()
    assert (by_two / 'state' / 'ocdbt.process_1').exists()


@pytest.mark.soak
def test_a_signal_to_one_is_a_checkpoint_of_all(stopped):
  """Of step 5: it comes in step 3, and all stop two steps after."""
  first, second = stopped.ended
  assert (first.code, second.code) == (exits.INTERRUPTED,) * 2, stopped
  (line,) = first.err
  assert line.startswith('interrupted: SIGINT at step 5 of 6; the state is sav')
  assert second.err == [f'process 1: {line}']
  newest = stopped.workdir / 'checkpoints' / '00000005'
  assert manifest.damage(newest) is None
  assert (newest / 'state' / 'ocdbt.process_1').exists()


@pytest.mark.soak
def test_one_goes_on_where_two_were(one, stopped, tmp_path):
  """And eight devices along data where there were two axes."""
  workdir = shutil.copytree(stopped.workdir, tmp_path / 'run')
  ended = own_text.call(*own_text.flags(one.text, workdir))
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert 'Going on from the checkpoint of step 5.' in ended.out
  _assert_close(workdir, one.workdir)


@pytest.mark.soak
def test_killed_they_go_on_from_their_fast_disks(one, two, tmp_path):
  """Each from its own part; equal to the bit to two that were never killed."""
  near = (
    f'--config.train.local_checkpoints={tmp_path / "disk"}',
    '--config.train.local_checkpoint_every=1',
  )
  never = '--config.train.checkpoint_every=100'
  killed = _two(one, tmp_path, '--stop=1:4:SIGKILL', flags=(*near, never))
  first, second = killed.ended
  assert (first.code, second.code) == (exits.LOST, -signal.SIGKILL), killed
  assert not [*(killed.workdir / 'checkpoints').glob('*[4-6]')]
  (disk,) = (tmp_path / 'disk').iterdir()
  assert sorted(os.listdir(disk)) == ['process_0', 'process_1']
  parts = [_size(disk / f'process_{i}' / '00000004') for i in (0, 1)]
  again = _two(one, tmp_path, flags=near)
  assert [e.code for e in again.ended] == [exits.DONE] * 2, again
  (line,) = [x for x in again.ended[0].out if x.startswith('Going on from')]
  assert line.split()[-1] in {'4.', '5.'}
  kills.assert_equal(two.workdir, again.workdir)
  whole = _size(two.workdir / 'checkpoints' / '00000006')
  assert max(parts) < 0.7 * whole


def _size(folder):
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


@pytest.mark.soak
def test_a_file_that_only_one_has(tmp_path, monkeypatch):
  """The other waits for its turn to read the text, and is told."""
  monkeypatch.setenv('MOEJAX_CACHE', str(tmp_path / 'rows'))
  here, there = tmp_path / 'here', tmp_path / 'there'
  for folder in (here, there):
    folder.mkdir()
  own_text.write_stories(here / 'stories.jsonl')
  flags = own_text.flags('stories.jsonl', tmp_path / 'run')
  with processes.Processes(2, 1, flags, where=[here, there]) as two:
    first, second = two.wait()
  assert (first.code, second.code) == (exits.LOST, exits.BAD_INPUT)
  (line,) = second.err
  assert line.startswith('process 1: error: ')
  assert 'stories.jsonl' in line
  (told,) = first.err
  assert told.startswith('lost: process 1 (')
  assert told.endswith(f') stopped: {line.removeprefix("process 1: ")}')
