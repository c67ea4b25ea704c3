import jax.numpy as jnp
import numpy as np
import pytest

from moejax.moe.compute import blocks


@pytest.mark.parametrize('ladder', [(1,), (4, 2, 1), (8, 3, 1)])
def test_every_row_is_visited_once_with_its_expert(ladder):
  sizes = [6, 0, 22, 2, 8, 0]
  cut = blocks.Blocks(block=2, ladder=ladder)

  def visit(expert, pieces, carry):
    def body(start, length, carry):
      expert_R, count_R = carry
      rows = jnp.ones((length,), jnp.int32)
      count = blocks.read(count_R, start, length) + rows
      return (
        blocks.write(expert_R, rows * expert, start),
        blocks.write(count_R, count, start),
      )

    return pieces(body, carry)

  nothing = jnp.full((44,), -1, jnp.int32)
  expert_R, count_R = cut.each_expert(
    jnp.array(sizes), 44, visit, (nothing, jnp.zeros((44,), jnp.int32))
  )
  used = sum(sizes)
  np.testing.assert_array_equal(expert_R[:used], np.repeat(range(6), sizes))
  np.testing.assert_array_equal(expert_R[used:], -1)
  np.testing.assert_array_equal(count_R, np.arange(44) < used)


def test_the_example_of_the_docstring():
  def visit(expert, pieces, carry):
    def note(start, length, seen):
      return seen.at[start // 32].set(length)

    return pieces(note, carry)

  seen = blocks.Blocks().each_expert(
    jnp.array([21 * 32]), 21 * 32, visit, jnp.zeros((21,), jnp.int32)
  )
  assert seen.tolist() == [512, *[0] * 15, 96, 0, 0, 32, 32]


def test_a_ladder_that_leaves_rows_is_refused():
  with pytest.raises(ValueError, match='must end in 1'):
    blocks.Blocks(ladder=(4, 2))
