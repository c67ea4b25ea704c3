"""Interventions on a trained run: what changes nothing, and what does."""

import json
import shutil

import pytest
from helpers import own_text

from moejax.cli import intervene
from moejax.core import exits


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


def test_neutral_values_have_the_loss_of_the_report_to_the_bit(workdir):
  (domain,) = own_text.report(workdir)['domains'].values()
  config = json.loads((workdir / 'config.json').read_text())
  k = str(config['model']['moe']['router']['k'])
  for what, value in (('mask_top', '0'), ('active', k), ('temperature', '1')):
    loss = scores(workdir, what, value)
    assert loss == {None: domain['loss'], value: domain['loss']}


def test_a_trained_model_needs_the_experts_that_it_chooses(workdir):
  loss = scores(workdir, 'mask_top', '0', '1/2')
  assert loss['1/2'] > loss[None]
