"""SIGKILL at chosen places of a real process; at random in tests/soak."""

import functools
import os
import types

import jax
import pytest
from helpers import kills, own_text

from moejax.core import exits, log
from moejax.run import trained
from moejax.train import checkpoint, goodput

# Each starts several processes. That a stopped run goes on equal to the bit is
# shown by test_stops.py in the default run.
pytestmark = pytest.mark.soak
# Of a value's size, where the mesh is another; see docs/many_hosts.md.
TOLERANCE = 2e-6


@pytest.fixture(scope='module')
def server(finished, tmp_path_factory):
  """One for all, which knows where `finished` keeps its programs."""
  folder = tmp_path_factory.mktemp('server')
  with kills.Server(folder, os.environ['XLA_FLAGS']) as found:
    yield found


@pytest.fixture(scope='module')
def never_stopped(server, tmp_path_factory):
  """By a dispatcher of `kills`, a run with it that was never stopped."""

  @functools.cache
  def of(dispatcher):
    folder = tmp_path_factory.mktemp(dispatcher)
    text = own_text.write_stories(folder / 'stories.jsonl')
    compiled = f'--config.train.compile_cache={folder / "compiled"}'
    workdir = kills.straight(server, text, dispatcher, folder, compiled)
    return types.SimpleNamespace(text=text, workdir=workdir, compiled=compiled)

  return of


@pytest.mark.parametrize(
  'dispatcher',
  [
    'capacity',  # one device, and a router that draws random numbers
    'all_to_all',  # eight devices, four of them along the experts
  ],
)
def test_killed_in_cache_step_save_and_evaluation_it_is_bit_equal(
  dispatcher, never_stopped, server, tmp_path
):
  """A router with a bias.

  Both read what the first has compiled; that it makes no difference whether a
  program is read or compiled is a test below.
  """
  straight = never_stopped(dispatcher)
  places = [
    ('packed', 1),  # the shard is written, and entered nowhere
    ('step, all saved', 4),  # the checkpoint of step 2 is there
    ('manifest begun', 1),
    ('evaluation', 1),
  ]
  workdir = tmp_path / 'killed'
  out = kills.killed(
    server, straight.text, dispatcher, workdir, places, straight.compiled
  )
  assert 'Going on from the checkpoint of step ' in out
  assert 'of 4 starts' in out  # the first did not come to training
  records = log.read(workdir / 'metrics.jsonl')
  lost = [r[f'{goodput.NAME}lost_s'] for r in records if goodput.SHARE in r]
  assert lost[0] == 0
  assert lost[-1] > 0  # a step after the last checkpoint was taken again
  kills.assert_equal(straight.workdir, workdir)


# The devices on which a run is, one after the other, and their meshes.
FEWER = [
  (8, ('--config.mesh.data=2', '--config.mesh.expert=4')),
  (4, ('--config.mesh.data=4', '--config.mesh.expert=1')),
  (2, ('--config.mesh.data=1', '--config.mesh.expert=2')),
  (1, ('--config.mesh.data=1', '--config.mesh.expert=1')),
]


def test_it_goes_on_with_fewer_devices(never_stopped, server, tmp_path):
  """On 8, 4, 2 and 1: two steps each, experts on an axis, not, and again.

  The same rows and the same choice of experts; numbers differ by rounding.
  """
  on_eight = never_stopped('all_to_all')
  workdir = tmp_path / 'run'
  cache = tmp_path / 'cache'
  for devices, mesh in FEWER:
    flags = kills.flags(
      on_eight.text, 'all_to_all', workdir, cache, *mesh, on_eight.compiled
    )
    last = devices == 1
    # It ends when the checkpoint has its name.
    place = None if last else ('named', 1)
    code, out = server.run(flags, devices=devices, place=place)
    assert code == (exits.DONE if last else kills.KILLED), out
    assert f' on {devices} cpu device' in out
  assert 'Going on from the checkpoint of step 6.' in out
  found = own_text.records(workdir)
  wanted = own_text.records(on_eight.workdir)
  assert [r['step'] for r in found] == [r['step'] for r in wanted]
  for a, b in zip(found, wanted, strict=True):
    assert a == pytest.approx(b, rel=TOLERANCE, abs=1e-9)


def test_a_step_that_hangs_ends_with_code_4(finished, server, tmp_path):
  flags = (
    *own_text.flags(finished.text, tmp_path / 'run'),
    '--config.train.watchdog_s=15',
    '--config.train.watchdog_exits=true',
  )
  devices = jax.device_count()
  code, out = server.run(flags, devices=devices, place=('hanging step', 3))
  assert code == exits.STUCK, out
  what = 'since the boundary after step 2'  # that has a checkpoint
  assert f' s, {what}; train.watchdog_s=15. All stacks of proc' in out
  stack = out.partition('All stacks of process')[2]
  assert 'in hang_here' in stack
  assert 'in _train_the_rest' in stack


def test_killed_before_a_checkpoint_has_its_name(finished, server, tmp_path):
  """The default dispatcher, dropless."""
  workdir = tmp_path / 'run'
  flags = own_text.flags(finished.text, workdir)
  devices = jax.device_count()
  code, out = server.run(flags, devices=devices, place=('state written', 2))
  assert code == kills.KILLED, out
  folder = workdir / 'checkpoints'
  assert sorted(p.name for p in folder.glob('0*')) == [
    '00000002',
    '00000004.part',
  ]
  code, out = server.run(flags, devices=devices, place=('named', 1))
  assert code == kills.KILLED, out
  assert 'Going on from the checkpoint of step 2.' in out
  code, out = server.run(flags, devices=devices)
  assert code == exits.DONE, out
  assert 'Going on from the checkpoint of step 4.' in out
  kills.assert_equal(finished.workdir, workdir)


def test_the_same_run_twice_is_bit_equal_with_and_without_compiled_programs(
  finished, tmp_path
):
  workdir = tmp_path / 'run'
  flags = own_text.flags(finished.text, workdir)
  ended = own_text.call(*flags, '--config.train.compile_cache=none')
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert not (workdir / 'compile_cache').exists()
  kills.assert_equal(finished.workdir, workdir)


def test_kept_weights_are_neither_lost_nor_kept_twice(
  finished, server, tmp_path
):
  """Killed while weights are written, and after some that a state lacks."""
  workdir, straight = tmp_path / 'run', tmp_path / 'straight'
  keep = (
    '--config.train.keep_checkpoints_at=0,1',
    '--config.train.keep_checkpoints_every=3',
  )
  devices = jax.device_count()
  code, out = server.run(
    (*own_text.flags(finished.text, straight), *keep), devices=devices
  )
  assert code == exits.DONE, out
  flags = (*own_text.flags(finished.text, workdir), *keep)
  folders = lambda: {
    name: sorted(p.name.lstrip('0') for p in (workdir / name).glob('0*'))
    for name in ('checkpoints', 'kept')
  }
  # Completed in this order: kept 0, kept 1, state 2, kept 3, state 4.
  code, out = server.run(flags, devices=devices, place=('state written', 4))
  assert code == kills.KILLED, out
  assert folders() == {'checkpoints': ['2'], 'kept': ['', '1', '3.part']}
  # Goes on from 2: kept 3, state 4.
  code, out = server.run(flags, devices=devices, place=('state written', 2))
  assert code == kills.KILLED, out
  assert folders() == {'checkpoints': ['2', '4.part'], 'kept': ['', '1', '3']}
  code, out = server.run(flags, devices=devices)
  assert code == exits.DONE, out
  assert folders() == {
    'checkpoints': ['2', '4', '6'],
    'kept': ['', '1', '3', '6'],
  }
  for step in (0, 1, 3, 6):
    weights = [
      checkpoint.Checkpointer(place / 'kept').restore(
        step, {'weights': trained.open_trained(place).model.shapes}
      )[0]
      for place in (straight, workdir)
    ]
    for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
      assert a.tobytes() == b.tobytes()
