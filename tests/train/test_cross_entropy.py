import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from moejax.core import errors
from moejax.train.cross_entropy import cross_entropy

D, V = 6, 37


def _inputs(B=4, L=10, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  x_BLD = jnp.asarray(rng.normal(size=(B, L, D)), dtype)
  w_DV = jnp.asarray(rng.normal(size=(D, V)), dtype)
  target_BL = jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32)
  weight_BL = jnp.asarray(rng.random((B, L)), jnp.float32)
  return x_BLD, w_DV, target_BL, weight_BL.at[:, 2].set(0)


def _at_once(x_BLD, w_DV, target_BL, weight_BL):
  """All logits at once, the gradient by JAX."""
  logit_BLV = x_BLD.astype(jnp.float32) @ w_DV.astype(jnp.float32)
  logp_BLV = jax.nn.log_softmax(logit_BLV)
  nll_BL = -jnp.take_along_axis(logp_BLV, target_BL[..., None], -1)[..., 0]
  correct_BL = jnp.argmax(logit_BLV, -1) == target_BL
  return jnp.sum(nll_BL * weight_BL), (nll_BL, correct_BL)


def _in_chunks(*args, **options):
  sum_nll, *rest = cross_entropy(*args, **options)
  return sum_nll, tuple(rest)


def _run(function, args, **options):
  """((sum, (nll, correct)), gradients to x, w and weight of three times it)."""

  def loss(x, w, weight):
    sum_nll, rest = function(x, w, args[2], weight, **options)
    return 3 * sum_nll, rest

  grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  return jax.jit(grad)(args[0], args[1], args[3])


def _same(got, want, **tolerance):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, **tolerance)


def test_by_hand():
  # Logits (log 1, log 3): the second token has probability 3/4.
  x_BLD = jnp.ones((1, 2, 1))
  w_DV = jnp.log(jnp.array([[1.0, 3.0]]))
  sum_nll, nll_BL, correct_BL = cross_entropy(
    x_BLD, w_DV, jnp.array([[1, 0]]), jnp.array([[1.0, 0.5]])
  )
  np.testing.assert_allclose(nll_BL, [[-np.log(3 / 4), -np.log(1 / 4)]])
  np.testing.assert_allclose(sum_nll, nll_BL[0, 0] + nll_BL[0, 1] / 2)
  assert correct_BL.tolist() == [[True, False]]


# All at once, even chunks, chunks that need padding, one place at a time.
@pytest.mark.parametrize('chunk_tokens', [512, 20, 12, 1])
def test_values_and_gradients_equal_all_at_once(chunk_tokens):
  args = _inputs()
  got = _run(_in_chunks, args, chunk_tokens=chunk_tokens)
  _same(got, _run(_at_once, args), rtol=1e-5, atol=1e-5)


def test_without_gradient_it_is_the_same_and_one_product():
  args = _inputs()

  def products(f):
    return jax.jit(f).lower(*args).as_text().count('dot_general')

  plain = jax.jit(cross_entropy)(*args)
  (three, rest), _ = _run(_in_chunks, args)
  _same(plain, (three / 3, *rest), rtol=1e-6)
  assert products(cross_entropy) == 1
  assert (
    products(jax.grad(lambda *a: cross_entropy(*a)[0], argnums=(0, 1))) == 3
  )


def test_evaluation_outputs_have_no_gradient():
  x_BLD, w_DV, target_BL, weight_BL = _inputs()
  dx_BLD = jax.grad(
    lambda x: jnp.sum(cross_entropy(x, w_DV, target_BL, weight_BL)[1])
  )(x_BLD)
  assert not np.any(dx_BLD)


def test_places_without_weight_give_exact_zeros():
  _, (dx_BLD, _, _) = _run(_in_chunks, _inputs(), chunk_tokens=12)
  assert not np.any(dx_BLD[:, 2])
  assert np.all(np.any(np.asarray(dx_BLD[:, 3]), axis=-1))


def test_large_logits_are_finite():
  x_BLD, w_DV, *rest = _inputs()
  for leaf in jax.tree.leaves(_run(_in_chunks, (x_BLD * 1e4, w_DV, *rest))):
    assert np.all(np.isfinite(leaf))


def test_bfloat16_stays_near_float32():
  args = _inputs(dtype=jnp.bfloat16)
  got = _run(_in_chunks, args, chunk_tokens=12)
  want = _run(_at_once, args)
  # The logits are exact sums in float32; only dlogits are rounded, by 2^-9.
  _same(got[0], want[0], rtol=1e-4)
  for a, b, x in zip(got[1], want[1], (*args[:2], args[3]), strict=True):
    assert a.dtype == x.dtype
    error = np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32))
    assert error.max() < 2**-6 * np.abs(np.asarray(b, np.float32)).max()


def test_under_scan_as_in_gradient_accumulation():
  x_BLD, w_DV, target_BL, weight_BL = _inputs()
  batch = (x_BLD, target_BL, weight_BL)
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)

  def accumulate(w_DV, half):
    x, target, weight = half
    return jax.value_and_grad(
      lambda w: cross_entropy(x, w, target, weight, chunk_tokens=8)[0]
    )(w_DV)

  def step(total, half):
    found = jax.checkpoint(accumulate)(w_DV, half)
    return jax.tree.map(jnp.add, total, found), None

  zeros = (jnp.zeros(()), jnp.zeros_like(w_DV))
  total, dw_DV = jax.jit(lambda h: jax.lax.scan(step, zeros, h)[0])(halves)
  want = jax.value_and_grad(
    lambda w: _at_once(x_BLD, w, target_BL, weight_BL)[0]
  )(w_DV)
  _same((total, dw_DV), want, rtol=1e-5, atol=1e-5)


def _mesh(shape, names):
  return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def _collectives(text):
  """(inside a loop, what, how many elements) of a compiled program."""
  found, entry = [], False
  for line in text.splitlines():
    if line.endswith('{') and '(' in line and '->' in line:
      entry = line.startswith('ENTRY')
    what = r'all-gather|all-reduce|all-to-all|reduce-scatter'
    match = re.search(rf'= (.*) ({what})\(', line)
    if match:
      shapes = re.findall(r'\w+\[([\d,]*)\]', match[1])
      size = sum(
        int(np.prod([int(n) for n in s.split(',') if n])) for s in shapes
      )
      found.append((not entry, match[2], size))
  return found


def test_a_batch_split_over_eight_devices_gives_the_same():
  args = _inputs(B=8, L=12)
  mesh = _mesh((4, 2), ('data', 'fsdp'))
  rows, whole = (NamedSharding(mesh, P(a)) for a in (('data', 'fsdp'), None))

  def loss(x, w, target, weight):
    sum_nll, nll, correct = cross_entropy(
      x, w, target, weight, chunk_tokens=3, shards=8
    )
    return 3 * sum_nll, (nll, correct)

  grad = jax.value_and_grad(loss, argnums=(0, 1, 3), has_aux=True)
  split = jax.jit(grad, in_shardings=(rows, whole, rows, rows))
  _same(split(*args), _run(_at_once, args), rtol=1e-5, atol=1e-5)

  # Nothing moves inside the loop, and in all only dw and the sum of the nll.
  moved = _collectives(split.lower(*args).compile().as_text())
  assert not [m for m in moved if m[0]], moved
  assert not [m for m in moved if m[1] != 'all-reduce'], moved
  assert sum(m[2] for m in moved) <= D * V + 2


def test_a_vocabulary_split_over_devices_is_not_gathered_in_the_loop():
  args = _inputs(B=4, L=12)
  w_DV = jnp.pad(args[1], [(0, 0), (0, 3)], constant_values=-9.0)
  args = (args[0], w_DV, *args[2:])
  mesh = _mesh((2, 4), ('data', 'model'))
  specs = (P('data'), P(None, 'model'), P('data'), P('data'))
  shardings = tuple(NamedSharding(mesh, spec) for spec in specs)

  def loss(x, w, target, weight):
    return _in_chunks(x, w, target, weight, chunk_tokens=6, shards=2)

  grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  split = jax.jit(grad, in_shardings=shardings)
  plain = jax.value_and_grad(_at_once, argnums=(0, 1), has_aux=True)
  _same(split(*args), plain(*args), rtol=1e-5, atol=1e-5)
  moved = _collectives(split.lower(*args).compile().as_text())
  # Per chunk of 6 tokens: dx, and numbers per token. Never logits.
  assert max(m[2] for m in moved if m[0]) <= 6 * D, moved


def test_inside_shard_map():
  args = _inputs()
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )

  def local(x, w, target, weight):
    sum_nll, nll, correct = cross_entropy(x, w, target, weight, chunk_tokens=6)
    return jax.lax.psum(sum_nll, 'data'), (nll, correct)

  rows = P('data')
  sharded = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(rows, P(), rows, rows),
    out_specs=(P(), (rows, rows)),
  )
  _same(_run(sharded, args), _run(_at_once, args), rtol=1e-5, atol=1e-5)


def test_shards_that_do_not_divide_the_batch():
  with pytest.raises(errors.InputError, match='3 shards'):
    cross_entropy(*_inputs(), shards=3)
