"""The same run on one process and on two: the same losses, and back again.

All have eight devices. What two processes add up through their network is added
in another order than what one adds up in its memory, so a loss may differ in
its last bits; docs/many_hosts.md says what is equal to the bit.
"""

import os
import shutil
import types

import pytest
from helpers import own_text, processes

from moejax.cli import command

pytestmark = pytest.mark.slow  # each starts processes
# Of a value's size; docs/many_hosts.md has what was measured.
TOLERANCE = 2e-6


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The run in one process, and its text."""
  folder = tmp_path_factory.mktemp('one')
  text = own_text.write_stories(folder / 'stories.jsonl')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'rows'))
    patch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'compiled'))
    ended = own_text.call(*own_text.flags(text, folder / 'run'))
    assert ended.code == 0, ended
    yield types.SimpleNamespace(text=text, workdir=folder / 'run')


@pytest.fixture(scope='module')
def two(one, tmp_path_factory):
  """Two processes that went on from its second step, on another mesh."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  _copy(one.workdir, workdir, without=(4, 6))
  flags = own_text.flags(one.text, workdir)
  mesh = '--config.mesh.fsdp=2', '--config.mesh.expert=2'
  with processes.Processes(2, 4, (*flags, *mesh)) as both:
    ended = both.wait()
  return types.SimpleNamespace(workdir=workdir, ended=ended)


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


def test_two_go_on_where_one_was(one, two):
  first, second = two.ended
  assert (first.code, first.err) == (command.DONE, [])
  assert 'Going on from the checkpoint of step 2.' in first.out
  _assert_close(two.workdir, one.workdir)


def test_process_0_alone_shows_and_writes(one, two):
  _, second = two.ended
  assert (second.code, second.out, second.err) == (command.DONE, [], [])
  assert sorted(os.listdir(two.workdir)) == sorted(os.listdir(one.workdir))


def test_one_goes_on_where_two_were(one, two, tmp_path):
  """And eight devices along data where there were two along three axes."""
  _copy(two.workdir, tmp_path / 'run', without=(6,))
  ended = own_text.call(*own_text.flags(one.text, tmp_path / 'run'))
  assert (ended.code, ended.err) == (command.DONE, [])
  assert 'Going on from the checkpoint of step 4.' in ended.out
  _assert_close(tmp_path / 'run', one.workdir)


def test_a_file_that_only_one_has(one, tmp_path):
  """The other waits for its turn to read the text, and is told."""
  here, there = tmp_path / 'here', tmp_path / 'there'
  for folder in (here, there):
    folder.mkdir()
  shutil.copy(one.text, here / 'stories.jsonl')
  flags = own_text.flags('stories.jsonl', tmp_path / 'run')
  with processes.Processes(2, 1, flags, where=[here, there]) as two:
    first, second = two.wait()
  assert (first.code, second.code) == (command.LOST, command.BAD_INPUT)
  (line,) = second.err
  assert line.startswith('process 1: error: ')
  assert 'stories.jsonl' in line
  (told,) = first.err
  assert told.startswith('lost: process 1 (')
  assert told.endswith(f') stopped: {line.removeprefix("process 1: ")}')
