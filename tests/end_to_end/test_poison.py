"""Batches that ruin a step: what is kept, counted, written and skipped."""

import dataclasses
import shutil

import numpy as np
import pytest
from helpers import kills, own_text

from moejax.core import exits, log
from moejax.data import loader

pytestmark = pytest.mark.slow

# No test here looks at the report.
SHORT = ('--config.report.samples=false', '--config.report.eval_batches=1')
SPIKES = (
  '--config.train.skip_spikes.name=deviations',
  '--config.train.skip_spikes.k=1',
  '--config.train.skip_spikes.warmup=2',
)


def poison(monkeypatch, numbers, change):
  """The batches of these numbers, as the loader gives them, are changed."""
  inner = loader.Loader.batch

  def batch(self, number, rows=None):
    found = inner(self, number, rows)
    return change(found) if number in numbers else found

  monkeypatch.setattr(loader.Loader, 'batch', batch)


def not_finite(batch):
  weight_BL = np.array(batch.weight_BL, np.float32)
  weight_BL[3, 5] = np.nan
  return dataclasses.replace(batch, weight_BL=weight_BL)


def unlikely(batch):
  """Every byte is to be followed by one that no text has."""
  return dataclasses.replace(
    batch, target_BL=np.full_like(batch.target_BL, 255)
  )


def bad_steps(workdir):
  path = workdir / 'bad_steps.jsonl'
  return log.read(path) if path.exists() else []


def losses(workdir):
  return {r['step']: r for r in own_text.records(workdir) if 'loss' in r}


@pytest.mark.soak
def test_one_bad_batch_is_written_down_and_changes_nothing(
  finished, tmp_path, monkeypatch
):
  poison(monkeypatch, {2}, not_finite)
  workdir = tmp_path / 'run'
  flags = own_text.flags(finished.text, workdir)
  ended = own_text.call(*flags, *SHORT)
  assert (ended.code, ended.err) == (exits.DONE, [])
  (bad,) = bad_steps(workdir)
  assert (bad['step'], bad['batch'], bad['seed']) == (3, 2, 0)
  assert (bad['reason'], bad['in_a_row']) == ('not finite', 1)
  assert np.isnan(bad['loss'])
  assert np.isfinite(bad['moe/logit_max'])
  assert bad['leaves_not_finite']
  assert len(bad['rows']['files']) == 8
  assert all(np.isnan(x) or x >= 0 for x in bad['gradient_norms'].values())
  found = losses(workdir)
  assert [found[s]['skipped'] for s in sorted(found)] == [0, 0, 1, 1, 1, 1]
  assert [found[s]['bad_steps'] for s in sorted(found)] == [0, 0, 1, 0, 0, 0]
  # Steps 1 and 2 are those of the good run; step 4 has the weights of 2.
  good = losses(finished.workdir)
  assert found[2] == good[2]
  assert found[4]['loss'] != good[4]['loss']
  assert np.isfinite(found[6]['loss'])
  # The learning rate waits: step 4 has that of step 3.
  assert found[4]['learning_rate'] == good[3]['learning_rate']


@pytest.mark.soak
def test_bad_batches_in_a_row_stop_the_run(finished, tmp_path, monkeypatch):
  poison(monkeypatch, {2, 3}, not_finite)
  workdir = tmp_path / 'run'
  flags = own_text.flags(finished.text, workdir)
  ended = own_text.call(*flags, '--config.train.max_bad_steps=2')
  assert ended.code == exits.STOPPED
  (line,) = ended.err
  assert 'loss and gradient_norm was not finite at step 4' in line
  assert [b['in_a_row'] for b in bad_steps(workdir)] == [1, 2]
  before = kills.state(workdir)
  assert int(before['skipped']) == 2
  assert all(np.isfinite(x).all() for x in before.values())


@pytest.mark.soak
def test_a_loss_that_jumps_is_skipped_if_asked_for(
  finished, tmp_path, monkeypatch
):
  clean = tmp_path / 'clean'
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    own_text.call(*own_text.flags(finished.text, clean), *SPIKES)
  poison(monkeypatch, {3}, unlikely)
  workdir = tmp_path / 'run'
  flags = (*own_text.flags(finished.text, workdir), *SPIKES)
  ended = own_text.call(*flags)
  assert (ended.code, ended.err) == (exits.DONE, [])
  (bad,) = bad_steps(workdir)
  assert (bad['step'], bad['reason'], bad['in_a_row']) == (4, 'spike', 1)
  assert bad['loss'] > bad['spike_limit']
  assert bad['leaves_not_finite'] == []
  found = losses(workdir)
  assert [found[s]['spikes'] for s in sorted(found)] == [0, 0, 0, 1, 1, 1]
  assert found[4]['skipped'] == 1
  assert found[4]['bad_steps'] == 0
  # Until then it is equal to the bit to a run without a bad batch, and but for
  # the rounding of another program to one without the rule.
  kept = losses(clean)
  assert sorted(kept) == [1, 2, 3]
  assert kept == {step: found[step] for step in kept}
  good = losses(finished.workdir)
  both = {**found[3], **good[3]}
  assert both == pytest.approx(found[3], rel=2e-6, abs=1e-9)
  assert found[5]['learning_rate'] == good[4]['learning_rate']
  # What the rule has seen is in the checkpoint: back to before the spike.
  other = shutil.copytree(workdir, tmp_path / 'again')
  (other / 'report.json').unlink()
  for step in (4, 6):
    shutil.rmtree(other / 'checkpoints' / f'{step:08d}')
  flags = (*own_text.flags(finished.text, other), *SPIKES)
  ended = own_text.call(*flags)
  assert 'Going on from the checkpoint of step 2.' in ended.out
  kills.assert_equal(workdir, other)
  assert bad_steps(other) == [bad]
