import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import shapes


def test_sizes_by_name():
  assert shapes.dims('T D', np.zeros((4, 3))) == {'T': 4, 'D': 3}
  assert shapes.dims('T D', np.zeros((4, 3)), D=3) == {'T': 4, 'D': 3}
  assert shapes.dims('', np.zeros(())) == {}


@pytest.mark.parametrize(
  ('spec', 'shape', 'known', 'message'),
  [
    ('T D', (4, 3), {'D': 2}, r'want D=2 in \[T D\], got \(4, 3\)'),
    ('T D', (4,), {}, r'want \[T D\], got \(4,\)'),
    ('T D', (4, 3, 2), {}, r'want \[T D\], got \(4, 3, 2\)'),
    ('L L', (4, 3), {}, r'want L=4 in \[L L\], got \(4, 3\)'),
  ],
)
def test_a_wrong_shape_says_what_was_wanted(spec, shape, known, message):
  with pytest.raises(ValueError, match=f'^{message}$'):
    shapes.dims(spec, np.zeros(shape), **known)


def test_checks_while_tracing():
  def f(x_TD):
    return x_TD * shapes.dims('T D', x_TD, D=3)['T']

  assert jax.eval_shape(f, jnp.zeros((4, 3))).shape == (4, 3)
  with pytest.raises(ValueError, match='want D=3'):
    jax.eval_shape(f, jnp.zeros((4, 2)))
