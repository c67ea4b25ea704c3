"""A run that learns from another run's model, by the real command."""

import os

import jax
import pytest
from helpers import kills, own_text

from moejax.core import exits

# Each trains a second model, and compiles its step.
pytestmark = pytest.mark.soak
# A student with fewer experts.
STUDENT = (
  '--config.model.moe.num_experts=4',
  '--config.train.distillation.weight=0.5',
  '--config.train.micro_batches=2',
  '--config.train.batch_size=16',  # rows for eight devices in each half
)


def flags(finished, workdir, teacher=None):
  place = finished.workdir if teacher is None else teacher
  named = f'--config.train.distillation.teacher={place}'
  return (*own_text.flags(finished.text, workdir), *STUDENT, named)


@pytest.fixture(scope='module')
def straight(finished, tmp_path_factory):
  """A student of `finished` that was never stopped."""
  workdir = tmp_path_factory.mktemp('student') / 'run'
  ended = own_text.call(*flags(finished, workdir))
  assert (ended.code, ended.err) == (exits.DONE, [])
  return workdir, ended


def test_it_learns_from_the_teacher_and_says_so(finished, straight):
  workdir, ended = straight
  (line,) = [x for x in ended.out if x.startswith('Learning from ')]
  assert line.startswith(f'Learning from {finished.workdir}, step 6: ')
  rows = [r for r in own_text.records(workdir) if 'loss' in r]
  assert len(rows) == own_text.STEPS
  assert all(row['distillation'] > 0 for row in rows)
  assert 'Divergence from the teacher' in (workdir / 'report.html').read_text()


def test_stopped_it_goes_on_bit_for_bit(
  finished, straight, tmp_path, monkeypatch
):
  """Also when the teacher was moved meanwhile."""
  workdir, moved = tmp_path / 'run', tmp_path / 'moved'
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    ended = own_text.call(*flags(finished, workdir))
  assert ended.code == exits.INTERRUPTED
  moved.symlink_to(finished.workdir)
  ended = own_text.call(*flags(finished, workdir, moved))
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert any('its weights are the same' in line for line in ended.out)
  assert own_text.records(workdir) == own_text.records(straight[0])
  same = own_text.report(straight[0])
  assert own_text.report(workdir) == {**same, 'workdir': str(workdir)}


def test_killed_between_checkpoints_it_goes_on_bit_for_bit(
  finished, straight, tmp_path
):
  """By SIGKILL: in step 4, when a state was read, and in a save."""
  workdir = tmp_path / 'run'
  places = [
    ('step, all saved', 4),
    ('restored', 1),
    ('state written', 1),
    None,
  ]
  with kills.Server(tmp_path, os.environ['XLA_FLAGS']) as server:
    for place in places:
      code, out = server.run(
        flags(finished, workdir), devices=jax.device_count(), place=place
      )
      assert code == (kills.KILLED if place else exits.DONE), out
  # Twice it came no further.
  assert 'Going on from the checkpoint of step 2.' in out
  assert f'Learning from {finished.workdir}, step 6: ' in out
  kills.assert_equal(straight[0], workdir)


def test_another_teacher_is_refused(finished, straight, tmp_path, monkeypatch):
  """The student itself has other weights; none at all is no teacher either."""
  workdir = tmp_path / 'run'
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 2)
    own_text.call(*flags(finished, workdir))
  ended = own_text.call(*flags(finished, workdir, straight[0]))
  assert ended.code == exits.BAD_INPUT
  (line,) = ended.err
  assert 'has other weights than the teacher of the checkpoint' in line
  ended = own_text.call(*flags(finished, workdir, ''))
  assert ended.code == exits.BAD_INPUT
  (line,) = ended.err
  assert 'but the checkpoint is of a run with a teacher' in line


SPARSE = (
  '--config.model.moe.low_rank=2',
  '--config.train.sparsity.name=columns',
  '--config.train.sparsity.initial_steps=1',
  '--config.train.sparsity.final_steps=2',
  '--config.train.sparsity.final=0.3',
)


def test_sparse_experts_of_low_rank_go_on_bit_for_bit(
  finished, tmp_path, monkeypatch
):
  """They begin as the teacher itself, from which nothing diverges."""

  def sparse(workdir):
    return (
      *own_text.flags(finished.text, workdir),
      *SPARSE,
      f'--config.start={finished.workdir}',
      f'--config.train.distillation.teacher={finished.workdir}',
    )

  ended = own_text.call(*sparse(tmp_path / 'straight'))
  assert (ended.code, ended.err) == (exits.DONE, [])
  rows = [r for r in own_text.records(tmp_path / 'straight') if 'loss' in r]
  assert rows[0]['distillation'] < 1e-5
  assert rows[0]['kept_share'] == 1
  assert rows[-1]['distillation'] > 1e-5
  assert 0.3 <= rows[-1]['kept_share'] < 0.32
  with monkeypatch.context() as patch:
    own_text.stop_after(patch, 3)
    own_text.call(*sparse(tmp_path / 'run'))
  ended = own_text.call(*sparse(tmp_path / 'run'))
  assert (ended.code, ended.err) == (exits.DONE, [])
  assert own_text.records(tmp_path / 'run') == (
    own_text.records(tmp_path / 'straight')
  )
