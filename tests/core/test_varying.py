import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.core import varying


def test_outside_of_shard_map_nothing_is_left_of_it():
  def plain(x, y):
    return x * 2 + y

  def matched(x, y):
    return varying.like(x, y) * 2 + y

  args = (jnp.ones((4, 3)), jnp.ones(()))
  texts = [
    jax.jit(f).lower(*args).compile().as_text() for f in (plain, matched)
  ]
  counts = [text.count(' = ') for text in texts]
  assert counts[0] == counts[1]


def test_a_loop_may_start_from_zeros_and_gradients_are_summed():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )

  @jax.custom_vjp
  def product(x_T, w):
    zero = varying.like(jnp.zeros(()), x_T)
    return jax.lax.fori_loop(0, 2, lambda i, total: total + x_T[i] * w, zero)

  product.defvjp(
    lambda x_T, w: (product(x_T, w), (x_T, w)),
    lambda kept, dy: (jnp.full((2,), dy * kept[1]), dy * jnp.sum(kept[0])),
  )

  def local(x_T, w):
    return product(*varying.together(x_T, w))[None]

  run = jax.shard_map(
    local, mesh=mesh, in_specs=(P('data'), P()), out_specs=P('data')
  )
  x_T = jnp.array([1.0, 2.0, 3.0, 4.0])
  total, dw = jax.value_and_grad(lambda w: jnp.sum(run(x_T, w)))(2.0)
  assert (float(total), float(dw)) == (20.0, 10.0)


def test_infinite_values_do_not_leak():
  assert float(varying.like(jnp.float32(3), jnp.array([jnp.inf, jnp.nan]))) == 3
