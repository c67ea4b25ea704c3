"""The loss of recovery: by hand, and what it must not depend on."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.distillation import Distillation, losses

LN = np.log
# Two tokens of a vocabulary of two; probabilities 1/4 3/4, and 1/2 1/2.
STUDENT_TV = np.array([[0.0, LN(3)], [7, 7]])
# At temperature 2 the teacher has 1/2 1/2, and 1/3 2/3.
TEACHER_TV = np.array([[5.0, 5], [0, 2 * LN(2)]])
TARGET_T = np.array([1, 0])
VALID_T = np.array([True, True])


def test_the_loss_by_hand():
  cross_entropy = (LN(4 / 3) + LN(2)) / 2
  # The student's at temperature 2: weights 1 and sqrt(3), and 1/2 1/2.
  p = 1 / (1 + np.sqrt(3))
  first = 0.5 * LN(0.5 / p) + 0.5 * LN(0.5 / (1 - p))
  second = LN((1 / 3) / 0.5) / 3 + 2 * LN((2 / 3) / 0.5) / 3
  divergence = (first + second) / 2
  result = losses(STUDENT_TV, TEACHER_TV, TARGET_T, VALID_T)
  np.testing.assert_allclose(
    result, (cross_entropy + 0.2 * divergence, cross_entropy, divergence)
  )


def test_weight_and_temperature_are_used():
  half = Distillation(weight=0.5, temperature=1.0)
  result = losses(STUDENT_TV, TEACHER_TV, TARGET_T, VALID_T, half)
  # Teacher 1/2 1/2 and 1/5 4/5; student 1/4 3/4 and 1/2 1/2.
  first = 0.5 * LN(0.5 / 0.25) + 0.5 * LN(0.5 / 0.75)
  second = 0.2 * LN(0.2 / 0.5) + 0.8 * LN(0.8 / 0.5)
  np.testing.assert_allclose(result.divergence, (first + second) / 2)
  assert result.total == pytest.approx(
    result.cross_entropy + 0.5 * result.divergence
  )


def test_a_student_like_its_teacher_has_its_cross_entropy_alone():
  result = losses(STUDENT_TV, STUDENT_TV + [[3], [-2]], TARGET_T, VALID_T)
  assert result.divergence == pytest.approx(0, abs=1e-15)
  assert result.total == pytest.approx(result.cross_entropy)


def test_tokens_that_do_not_count_are_left_out():
  alone = losses(STUDENT_TV[:1], TEACHER_TV[:1], TARGET_T[:1], VALID_T[:1])
  masked = losses(STUDENT_TV, TEACHER_TV, TARGET_T, np.array([True, False]))
  np.testing.assert_allclose(masked, alone)
  # Means: the same tokens twice are the same loss.
  twice = losses(
    *(np.tile(x, (2, 1)) for x in (STUDENT_TV, TEACHER_TV)),
    *(np.tile(x, 2) for x in (TARGET_T, VALID_T)),
  )
  both = losses(STUDENT_TV, TEACHER_TV, TARGET_T, VALID_T)
  np.testing.assert_allclose(twice, both)


def test_jax_gives_the_same_loss():
  arrays = STUDENT_TV, TEACHER_TV, TARGET_T, VALID_T
  np.testing.assert_allclose(
    losses(*map(jnp.asarray, arrays), xp=jnp), losses(*arrays), rtol=1e-5
  )


def test_large_logits_stay_finite():
  result = losses(1e4 * STUDENT_TV, -1e4 * TEACHER_TV, TARGET_T, VALID_T)
  assert np.all(np.isfinite(result))
