"""Interventions on a run that was trained with a selection bias."""

import json
import shutil

import pytest
from helpers import own_text

from moejax.cli import intervene
from moejax.core import exits

NOT_NEUTRAL = {'mask_top': '1/2', 'active': '1'}


@pytest.fixture(scope='module')
def workdir(finished, tmp_path_factory):
  """A copy, for a command writes into it."""
  place = tmp_path_factory.mktemp('copy') / 'run'
  return shutil.copytree(finished.workdir, place)


def scores(workdir, what, *values):
  """The loss by value; None for the unchanged model."""
  flags = [f'--workdir={workdir}', f'--what={what}']
  flags.append(f'--values={",".join(values)}')
  assert exits.call(intervene.main, flags) == exits.DONE
  path = workdir / 'interventions' / f'{what}.json'
  rows = json.loads(path.read_text())['rows']
  return {row['value']: row['score'] for row in rows}


@pytest.mark.soak
def test_neutral_values_change_nothing_to_the_bit(workdir):
  (domain,) = own_text.report(workdir)['domains'].values()
  config = json.loads((workdir / 'config.json').read_text())
  k = str(config['model']['moe']['router']['k'])
  for what, value in (('mask_top', '0'), ('active', k)):
    loss = scores(workdir, what, value, NOT_NEUTRAL[what])
    assert loss[value] == loss[None]
    assert loss[NOT_NEUTRAL[what]] != loss[None]
    # The report is of the mesh of the training run.
    assert loss[None] == pytest.approx(domain['loss'], rel=1e-5)
