"""The weights of a teacher: what identifies them, and what refuses others."""

import dataclasses

import numpy as np
import pytest
from helpers import tiny
from helpers.hf import GOLDEN

from moejax.config import Run
from moejax.convert import load
from moejax.core import errors
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes, Ids
from moejax.parallel.group import SINGLE
from moejax.run import new_workdir, teacher
from moejax.train import checkpoint
from moejax.train.config import TrainConfig
from moejax.train.distillation import Distillation

RUN = Run(train=TrainConfig(distillation=Distillation('runs/full')))


def of_numbers(tree, mesh=None):
  """The fingerprint of arrays as the weights of a model."""
  model = tiny.model(mesh_of=mesh)
  return teacher.fingerprint(model, tree)


def test_a_fingerprint_by_hand():
  """Sums of bits, each times 1 plus a large even number times its place."""
  ints = np.array([[3, 5], [7, 11]], np.uint32)
  at = 2_654_435_760
  total = sum(x * (at * i + 1) for i, x in enumerate((3, 5, 7, 11))) % 2**32
  want = teacher.digest([total])
  assert of_numbers({'w': ints.view(np.float32)}) == want


def test_any_change_is_another_fingerprint():
  w = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
  last = w.copy()
  last[-1, -1] = np.nextafter(last[-1, -1], 2)
  negative = w.copy()
  negative[0, 0] *= -1
  swapped = w[::-1]
  trees = [{'w': x} for x in (w, last, negative, swapped, w.T)]
  assert len({of_numbers(tree) for tree in trees}) == len(trees)


def test_a_mesh_changes_no_fingerprint():
  one, eight = tiny.mesh(), tiny.mesh(8, fsdp=2, expert=2)
  prints = [
    teacher.fingerprint(model, tiny.weights(model))
    for model in (tiny.model(mesh_of=one), tiny.model(mesh_of=eight))
  ]
  assert prints[0] == prints[1]


@pytest.mark.parametrize(
  ('extra', 'source', 'line'),
  [
    ({}, 'any', "teacher='runs/full', but the checkpoint is of a run without"),
    ({'teacher': {}}, None, 'but the checkpoint is of a run with a teacher'),
  ],
)
def test_a_teacher_does_not_come_or_go_within_a_run(extra, source, line):
  with pytest.raises(errors.InputError, match=line):
    teacher.load(source, RUN, extra, SINGLE, print)


def learning(place, model, **more):
  """A run that learns from a place."""
  return Run(
    model=model,
    data=DataConfig(vocab=Bytes(), sequence_length=16),
    train=TrainConfig(distillation=Distillation(str(place), **more)),
  )


def opened(run, tmp_path):
  return teacher.open_source(run, tmp_path / 'student', tiny.mesh(), SINGLE)


def test_a_run_stays_with_the_step_that_it_began_with(tmp_path):
  """Though `newest` is another one when it goes on."""
  model = tiny.model(tiny.model_config(vocab_size=300))
  run = learning(tmp_path / 'full', model.config)
  new_workdir.finish(new_workdir.make(str(tmp_path / 'full')), run)
  place = tmp_path / 'full' / 'checkpoints'
  lines, saved = [], {seed: tiny.weights(model, seed) for seed in (1, 2)}
  with checkpoint.Checkpointer(place) as checkpoints:
    checkpoints.save(10, {'weights': saved[1]}, {})
  first = teacher.load(opened(run, tmp_path), run, None, SINGLE, lines.append)
  with checkpoint.Checkpointer(place) as checkpoints:
    checkpoints.save(20, {'weights': saved[2]}, {})
  source = opened(run, tmp_path)
  extra = teacher.extra(first)
  again = teacher.load(source, run, extra, SINGLE, lines.append)
  for loaded in (first, again):
    tiny.assert_close(loaded.weights, saved[1], rtol=0, atol=0)
    assert loaded.extra['step'] == 10
  new = teacher.load(source, run, None, SINGLE, lines.append)
  assert (new.extra['step'], new.extra != first.extra) == (20, True)
  assert ['step 10' in lines[0], 'step 20' in lines[2]] == [True, True]
  # A step that is named is another teacher.
  named = learning(tmp_path / 'full', model.config, teacher_step='20')
  with pytest.raises(errors.InputError, match='other weights than the teacher'):
    teacher.load(source, named, extra, SINGLE, print)
  # The step is given with the two arguments of the loop.
  assert teacher.given(lambda *x: x, new)(1, 2) == (1, 2, new.weights)


def test_a_step_that_is_not_there_is_said_at_once(tmp_path):
  model = tiny.model_config(vocab_size=300)
  run = learning(tmp_path / 'full', model, teacher_step='7')
  new_workdir.finish(new_workdir.make(str(tmp_path / 'full')), run)
  (tmp_path / 'full' / 'checkpoints').mkdir()
  with pytest.raises(errors.InputError, match='teacher_step=7'):
    opened(run, tmp_path)


def test_the_weights_of_a_hugging_face_folder(tmp_path):
  run = learning(GOLDEN / 'llama', tiny.model_config(vocab_size=64))
  run = dataclasses.replace(
    run, data=dataclasses.replace(run.data, vocab=Ids(64))
  )
  source, lines = opened(run, tmp_path), []
  loaded = teacher.load(source, run, None, SINGLE, lines.append)
  assert loaded.extra['step'] is None
  want = load.weights(source.config.plan, source.model)
  tiny.assert_close(loaded.weights, want, rtol=0, atol=0)
  assert lines[0].startswith(f'Learning from {GOLDEN / "llama"}: 0.0M')
  assert 'came without a tokenizer' in lines[1]
  # A run that goes on knows it already.
  again = []
  teacher.load(source, run, teacher.extra(loaded), SINGLE, again.append)
  assert again == lines[:1]


def test_without_a_teacher_nothing_is_read_or_recorded():
  for extra in (None, {}):
    assert teacher.load(None, RUN, extra, SINGLE, print) is None
  assert teacher.extra(None) == {}
  step = object()
  assert teacher.given(step, None) is step
