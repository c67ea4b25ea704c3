"""The weights of a teacher: what identifies them, and what refuses others."""

import numpy as np
import pytest
from helpers import tiny

from moejax.config import Run
from moejax.core import errors
from moejax.parallel.group import SINGLE
from moejax.run import teacher
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


def test_without_a_teacher_nothing_is_read_or_recorded():
  for extra in (None, {}):
    assert teacher.load(None, RUN, extra, SINGLE, print) is None
  assert teacher.extra(None) == {}
  step = object()
  assert teacher.given(step, None) is step
