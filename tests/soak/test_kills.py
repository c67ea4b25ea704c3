"""Twenty kills at random moments, and no difference to runs never stopped.

  python -m pytest -n 0 -s tests/soak/test_kills.py

With MOEJAX_SOAK_SEED=7 MOEJAX_SOAK_KILLS=100 before it: those, and so many.

Each kill is SIGKILL to a real training process: half of them at a named place
of `helpers/killed_run.py`, some call of it; half after a random time, wherever
that is. A killed run is started again by the same command, and may be killed
again; when one has come to its end it is compared with the run that was never
stopped, and another begins.
"""

import os
import random
import sys
import time

import pytest
from helpers import killed_run, kills, own_text

from moejax.core import exits

KILLS = int(os.environ.get('MOEJAX_SOAK_KILLS', '20'))
SEED = int(os.environ.get('MOEJAX_SOAK_SEED', '0')) or random.randrange(10**6)


class _Runs:
  """The runs of one dispatcher, one after the other."""

  def __init__(self, server, text, dispatcher, folder):
    self.server, self.text, self.folder = server, text, folder
    self.dispatcher = dispatcher
    self.ended = 0
    begin = time.monotonic()
    self.straight = kills.straight(
      server, text, dispatcher, folder, '--config.train.compile_cache=none'
    )
    self.seconds = time.monotonic() - begin

  def once(self, **moment):
    """One process; whether it was killed. A run at its end is compared."""
    workdir = self.folder / f'{self.dispatcher}-{self.ended}'
    code, out = self.server.run(
      kills.flags(self.text, self.dispatcher, workdir, f'{workdir}-cache'),
      devices=kills.DISPATCHERS[self.dispatcher][0],
      **moment,
    )
    assert code in {kills.KILLED, exits.DONE}, out
    if code == exits.DONE:
      kills.assert_equal(self.straight, workdir)
      self.ended += 1
    return code == kills.KILLED


def _moment(rng, seconds):
  """A place and which call of it, or a time."""
  if rng.random() < 0.5:
    return {'place': (rng.choice([*killed_run.PLACES]), rng.randint(1, 4))}
  return {'after_s': round(rng.uniform(0.2, 0.8 * seconds), 2)}


def _say(line):
  sys.stdout.write(f'{line}\n')
  sys.stdout.flush()


@pytest.mark.slow
def test_twenty_random_kills(tmp_path):
  _say(f'\nMOEJAX_SOAK_SEED={SEED} MOEJAX_SOAK_KILLS={KILLS}')
  rng = random.Random(SEED)
  text = own_text.write_stories(tmp_path / 'stories.jsonl')
  with kills.Server(tmp_path) as server:
    runs = [_Runs(server, text, name, tmp_path) for name in kills.DISPATCHERS]
    done = 0
    while done < KILLS:
      one = runs[done % len(runs)]
      moment = _moment(rng, one.seconds)
      if one.once(**moment):
        done += 1
        _say(f'kill {done:2}: {one.dispatcher:10} {moment}')
    for one in runs:
      while one.once():
        pass
      _say(f'{one.dispatcher}: {one.ended} runs, each equal to the bit')
