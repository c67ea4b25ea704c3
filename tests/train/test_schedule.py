import jax
import numpy as np
import pytest

from moejax.core import errors
from moejax.train import optimizer
from moejax.train.schedule import (
  SCHEDULES,
  ConstantSchedule,
  CosineSchedule,
  StepSchedule,
  WarmupStableDecaySchedule,
)


def values(schedule, total_steps):
  """The factor of every step of a run, as the jitted step sees it."""
  steps = np.arange(total_steps, dtype=np.int32)
  return np.asarray(jax.jit(jax.vmap(schedule(total_steps)))(steps))


def test_the_papers_schedule_drops_at_80_and_at_90_percent():
  """times 0.316 from step 80 of 100, counted from 0, and again from step 90."""
  found = values(StepSchedule(warmup=0), 100)
  want = np.repeat([1, 0.316, 0.316**2], [80, 10, 10])
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_the_papers_2b_run():
  """25,000 steps, 2,000 of warm-up, peak 1.08e-3 (section 4.1.2)."""
  rate = optimizer.learning_rate(
    optimizer.OptimizerConfig(1.08e-3, schedule=StepSchedule(warmup=2000)),
    25_000,
  )
  for step, want in (
    (0, 1.08e-3 / 2000),
    (999, 1.08e-3 / 2),
    (1999, 1.08e-3),
    (2000, 1.08e-3),
    (19_999, 1.08e-3),
    (20_000, 1.08e-3 * 0.316),
    (22_499, 1.08e-3 * 0.316),
    (22_500, 1.08e-3 * 0.316**2),
    (24_999, 1.08e-3 * 0.316**2),
  ):
    assert float(rate(step)) == pytest.approx(want, rel=1e-6), step


def test_milestones_that_fall_on_one_step_both_count():
  """round(4.0) and round(4.5) are both 4."""
  np.testing.assert_allclose(
    values(StepSchedule(warmup=0), 5), [1, 1, 1, 1, 0.316**2], rtol=1e-6
  )
  np.testing.assert_allclose(values(StepSchedule(0, 0.5, ()), 3), 1)


@pytest.mark.parametrize('name', sorted(SCHEDULES))
def test_warm_up_goes_from_its_nth_part_to_the_peak(name):
  found = values(SCHEDULES[name](warmup=4), 40)
  np.testing.assert_allclose(found[:5], [1 / 4, 1 / 2, 3 / 4, 1, 1], rtol=1e-6)
  assert found.max() == 1
  assert found.min() > 0
  # None at all, and one that is longer than the run.
  assert values(SCHEDULES[name](warmup=0), 40)[0] == 1
  np.testing.assert_allclose(
    values(SCHEDULES[name](warmup=10), 3), [0.1, 0.2, 0.3], rtol=1e-6
  )


@pytest.mark.parametrize('name', sorted(SCHEDULES))
def test_without_a_length_the_warm_up_is_2_percent_of_the_run(name):
  """20 of 1,000 steps, and at least one; DeepSeekMoE 16B has 1.9%."""
  schedule = SCHEDULES[name]()
  for total, steps in ((1000, 20), (1001, 21), (3, 1), (106_449, 2129)):
    assert schedule.warmup_steps(total) == steps
  found = values(schedule, 1000)
  np.testing.assert_allclose(found[[0, 9, 19]], [0.05, 0.5, 1], rtol=1e-6)
  schedule.check(1)


def test_a_warm_up_longer_than_the_run_is_one_line():
  ConstantSchedule(warmup=20).check(20)
  with pytest.raises(errors.InputError) as error:
    ConstantSchedule(warmup=21).check(20)
  assert str(error.value) == (
    'opt.schedule.warmup=21 is longer than the run, train.steps=20; lower it, '
    'or set it to none for 2% of the run'
  )


@pytest.mark.parametrize('name', sorted(SCHEDULES))
def test_after_the_warm_up_it_never_rises(name):
  found = values(SCHEDULES[name](warmup=3), 30)
  assert (np.diff(found[2:]) <= 1e-7).all()


def test_constant():
  np.testing.assert_allclose(values(ConstantSchedule(warmup=2), 9)[1:], 1)


def test_cosine():
  """Half way it is half way between 1 and the end."""
  found = values(CosineSchedule(warmup=0, end=0.1), 1000)
  assert found[500] == pytest.approx(0.55, rel=1e-5)
  assert found[250] == pytest.approx(0.1 + 0.9 * (1 + 2**-0.5) / 2, rel=1e-5)
  assert found[-1] == pytest.approx(0.1, rel=1e-3)


def test_warm_up_stable_decay():
  """Constant for 90 steps, then ten equal parts of the way down to the end."""
  found = values(WarmupStableDecaySchedule(warmup=5, decay=0.1, end=0.0), 100)
  np.testing.assert_allclose(found[4:91], 1)
  np.testing.assert_allclose(found[90:], 1 - np.arange(10) / 10, rtol=1e-5)
