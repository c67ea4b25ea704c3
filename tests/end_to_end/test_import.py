"""SIGKILL anywhere in an import; the same command ends as if never stopped."""

import os

import numpy as np
import pytest
from helpers import hf, kills

from moejax.convert import staging
from moejax.core import exits, trees
from moejax.model import build
from moejax.run import restore

pytestmark = pytest.mark.slow  # it starts several processes
FOLDER = hf.GOLDEN / 'deepseek'


def run(server, workdir, place=None):
  flags = ['import', str(FOLDER), f'--workdir={workdir}']
  return server.run(flags, command='convert', place=place)


def weights(workdir):
  model = build.build(restore.run_of(str(workdir)).model, hf.one_device())
  found, step = restore.weights(model, str(workdir), print)
  assert step == 0
  return {k: np.asarray(x).tobytes() for k, x in trees.leaves(found).items()}


def listing(workdir):
  return {
    str(path.relative_to(workdir))
    for path in workdir.rglob('*')
    if 'state' not in path.parts  # names that are drawn
  }


@pytest.mark.soak
def test_killed_anywhere_an_import_is_bit_equal(tmp_path):
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  places = {
    ('reading tensors', 50): '',
    # Of 80, those that were entered are not read.
    ('reading tensors', 20): 'Going on: ',
    ('state written', 1): 'Going on: ',
    ('named', 1): 'Going on: 80 of 80 tensors',
    ('removing the staged', 1): '',
  }
  with kills.Server(tmp_path, os.environ['XLA_FLAGS']) as server:
    code, out = run(server, straight)
    assert code == exits.DONE, out
    for place, line in places.items():
      code, out = run(server, killed, place)
      assert code == kills.KILLED, f'{place} was not reached: {out}'
      assert line in out
      assert bool(line) == ('Going on' in out), out
      assert (killed / staging.NAME).exists()
    # All was there: it is neither read nor saved again.
    before = os.stat(killed / 'config.json')
    code, out = run(server, killed)
    assert code == exits.DONE, out
    assert 'holds the model' in out
    assert 'Read ' not in out
    assert os.stat(killed / 'config.json') == before
  assert weights(killed) == weights(straight)
  assert listing(killed) == listing(straight)
  assert restore.run_of(str(killed)) == restore.run_of(str(straight))
