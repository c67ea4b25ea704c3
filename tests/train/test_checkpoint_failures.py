"""Damaged files, full disks, kills: what was complete is not lost."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers.saved import abstract, assert_same_bits, make_state, save_steps

from moejax.core import errors
from moejax.train import checkpoint_folder
from moejax.train.checkpoint import Checkpointer


def largest_file(folder):
  found = [p for p in folder.rglob('*') if p.is_file()]
  return max(found, key=lambda p: p.stat().st_size)


def truncate(folder):
  with open(largest_file(folder / 'state'), 'r+b') as f:
    f.truncate(40)


def flip_bit(folder):
  path = largest_file(folder / 'state')
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


DAMAGE = {
  'truncated': (truncate, r'state/.* has 40 bytes, not [\d,]+'),
  'bit flipped': (flip_bit, 'state/.* has another checksum'),
  'no manifest': (
    lambda f: os.remove(f / 'manifest.json'),
    'manifest.json cannot be read',
  ),
  'file missing': (
    lambda f: os.remove(f / 'meta.json'),
    'meta.json: No such file or directory',
  ),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, name):
  harm, reason = DAMAGE[name]
  save_steps(tmp_path, [1, 2, 3])
  harm(tmp_path / '00000003')
  harm(tmp_path / '00000002')
  lines = []
  with Checkpointer(tmp_path, warn=lines.append) as checkpointer:
    for _ in range(2):  # warned of once
      state, extra = checkpointer.restore_latest(abstract(make_state()))
    assert_same_bits(state, make_state(1))
    assert extra == {'next_step': 1}
    assert len(lines) == 2
    for line, step in zip(lines, (3, 2), strict=True):
      assert re.fullmatch(
        rf'checkpoint {tmp_path}/0000000{step} is damaged: {reason}; '
        'trying the one before',
        line,
      )
    with pytest.raises(errors.InputError, match='is damaged: .*; take another'):
      checkpointer.restore(2, abstract(make_state()))
    checkpointer.save(3, make_state(3), {})  # in place of the damaged one
  lines.clear()
  with Checkpointer(tmp_path, warn=lines.append) as checkpointer:
    state, _ = checkpointer.restore_latest(abstract(make_state()))
  assert_same_bits(state, make_state(3))
  assert lines == []


def test_none_whole_is_an_error_and_no_silent_fresh_start(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(tmp_path / '00000001')
  truncate(tmp_path / '00000002')
  with (
    Checkpointer(tmp_path) as checkpointer,
    pytest.raises(errors.InputError) as error,
  ):
    checkpointer.restore_latest(abstract(make_state()))
  assert str(error.value) == (
    f'no checkpoint in {tmp_path} can be used; move that folder away to start '
    'from the beginning'
  )


def test_a_first_save_that_was_interrupted_is_no_checkpoint(tmp_path):
  (tmp_path / '00000001.part' / 'state').mkdir(parents=True)
  (tmp_path / '00000003.old').mkdir()
  with Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.restore_latest(abstract(make_state())) is None
    checkpointer.save(2, make_state(2), {})
  assert os.listdir(tmp_path) == ['00000002']


def run(code, *args, **options):
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, args)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


DISK_FULL = """
import resource, sys
import jax, jax.numpy as jnp
from absl import logging
from moejax.core import errors
from moejax.train.checkpoint import Checkpointer

logging.use_absl_handler()
state = lambda step: {'big': jnp.full(300_000, step), 'x': jnp.full(3, step)}
with Checkpointer(sys.argv[1], keep=1) as checkpointer:
  checkpointer.save(1, state(1.0), {'n': 1})
  checkpointer.wait()
  for limit in (1_000_000, 300, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
      checkpointer.save(2, state(2.0), {'n': 2})
      checkpointer.wait()
    except errors.StoppedError as error:
      sys.stdout.write(f'{error}\\n')
  found, extra = checkpointer.restore_latest(state(0.0))
  sys.stdout.write(f'{found["big"][7]} {extra}\\n')
  limit = resource.RLIM_INFINITY
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  checkpointer.save(2, state(2.0), {'n': 2})
  found, extra = checkpointer.restore_latest(state(0.0))
  sys.stdout.write(f'{found["big"][7]} {extra}\\n')
"""


def test_disk_full_is_one_line_and_what_was_saved_is_intact(tmp_path):
  """A real limit on file sizes, and nothing else on the user's screen."""
  out, err = run(DISK_FULL, tmp_path / 'c').communicate(timeout=120)
  line = (
    f'cannot save checkpoint {tmp_path}/c/00000002: File too large; 1 is intact'
  )
  assert out.splitlines() == [line] * 3 + ["1.0 {'n': 1}", "2.0 {'n': 2}"]
  assert err == ''
  assert os.listdir(tmp_path / 'c') == ['00000002']


KILLED = """
import sys
import jax.numpy as jnp
from moejax.train.checkpoint import Checkpointer

state = lambda step: {'w': jnp.full((500, 1000), step), 'n': jnp.int32(step)}
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
  found = checkpointer.restore_latest(state(0))
  step = 0
  if found:
    step = found[1]['n']
    assert (found[0]['w'] == step).all() and found[0]['n'] == step
  sys.stdout.write(f'{step}\\n')
  sys.stdout.flush()
  while True:
    step += 1
    checkpointer.save(step, state(step), {'n': step})
    checkpointer.wait()
    sys.stdout.write(f'{step}\\n')
    sys.stdout.flush()
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_complete(tmp_path):
  seed = random.randrange(1000)
  rng = random.Random(seed)
  reported = 0
  for _ in range(2):
    process = run(KILLED, tmp_path)
    first = int(process.stdout.readline())
    assert reported <= first <= reported + 1, seed
    for _ in range(3):
      process.stdout.readline()
    time.sleep(rng.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    reported = max([first + 3, *map(int, out.split())])
  lines = []
  with Checkpointer(tmp_path, warn=lines.append) as checkpointer:
    step, extra = checkpointer.latest()
  assert reported <= step <= reported + 1, seed
  assert (lines, extra) == ([], {'n': step})


def test_a_folder_that_has_vanished_is_not_made_again(tmp_path):
  folder = tmp_path / 'c'
  with Checkpointer(folder) as checkpointer:
    checkpointer.save(1, make_state(1), {})
    checkpointer.wait()
    shutil.rmtree(folder)
    with pytest.raises(errors.StoppedError, match='c has vanished, and all'):
      checkpointer.save(2, make_state(2), {})
  assert not folder.exists()


def check_for_a_minute(checkpointer):
  for _ in range(1200):
    checkpointer.check()
    time.sleep(0.05)


def test_a_background_error_is_raised_by_check_once(tmp_path, monkeypatch):
  def full(self, step, meta):
    raise OSError(28, 'No space left on device')

  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, make_state(1), {})
    checkpointer.wait()
    monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', full)
    checkpointer.save(2, make_state(2), {})
    with pytest.raises(errors.StoppedError) as error:
      check_for_a_minute(checkpointer)
    assert str(error.value) == (
      f'cannot save checkpoint {tmp_path}/00000002: No space left on device; '
      '1 is intact'
    )
    checkpointer.check()
    monkeypatch.undo()
    checkpointer.save(2, make_state(2), {})  # there is room again
    checkpointer.wait()
    assert checkpointer.steps() == [1, 2]


def test_close_raises_what_nobody_has_asked_for(tmp_path, monkeypatch):
  def full(self, step, meta):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(checkpoint_folder.CheckpointFolder, 'complete', full)
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(1, make_state(1), {})
  with pytest.raises(errors.StoppedError, match='there is no other'):
    checkpointer.close()
