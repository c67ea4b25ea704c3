"""Adapters beside weights: what they add, what is trained, and what is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors, trees
from moejax.model import adapted, formed
from moejax.model.attention import cache
from moejax.model.attention.heads import Latent
from moejax.moe.balance import bias
from moejax.train import config as configs
from moejax.train import lora, optimizer, schedule, step
from moejax.train import loss as losses
from moejax.train import state as states

RANK, ALPHA = 2, 6.0
SCALE = ALPHA / RANK
CONFIG = lora.Lora(rank=RANK, alpha=ALPHA)
MODEL = tiny.model_config(
  num_layers=1,
  first_dense=0,
  moe={'balance': (bias.LossFree(0.5),)},
)
BATCH = tiny.batch([[12], [5, 4], [3, 1, 6], [2, 10]])
OPT = optimizer.OptimizerConfig(
  peak_lr=0.03, schedule=schedule.ConstantSchedule(warmup=0)
)
TRAIN = configs.TrainConfig(steps=10, lora=CONFIG)
# Matrices of each weight in MODEL: inputs x outputs, and how many there are.
MATRICES = {
  'moe/attention/w_k_DGK': ((16, 8), 1),
  'moe/attention/w_o_HKD': ((16, 16), 1),
  'moe/attention/w_q_DHK': ((16, 16), 1),
  'moe/attention/w_v_DGK': ((16, 8), 1),
  'moe/ffn/routed/w_in_ED2F': ((16, 6), 2 * 4),
  'moe/ffn/routed/w_out_EFD': ((6, 16), 4),
  'moe/ffn/shared/w_in_ED2F': ((16, 12), 2),
  'moe/ffn/shared/w_out_EFD': ((12, 16), 1),
}


@functools.cache
def model_of(**sizes):
  devices = int(np.prod([*sizes.values()])) if sizes else 1
  return lora.of(tiny.model(MODEL, tiny.mesh(devices, **sizes)), CONFIG)


@functools.cache
def base():
  return tiny.weights(model_of().base)


@functools.cache
def moved():
  """Adapters far from zero."""
  own = model_of()
  return tiny.weights(own, seed=1, std=0.2)


def product(path, a, b):
  """A B in numpy, matrix by matrix, in the layout of the weight."""
  a, b = a[0], b[0]  # of one layer
  if 'w_in_ED2F' in path:
    halves = [
      np.stack([a[e, :, half] @ b[e, half] for e in range(len(a))])
      for half in (0, 1)
    ]
    return np.stack(halves, 2)[None]
  if 'w_out_EFD' in path:
    return np.stack([x @ y for x, y in zip(a, b, strict=True)])[None]
  if 'w_o_HKD' in path:
    heads, width, _ = a.shape
    whole = a.reshape(heads * width, RANK) @ b
    return whole.reshape(heads, width, -1)[None]
  return (a @ b.reshape(RANK, -1)).reshape(1, len(a), *b.shape[1:])


def reference(adapters):
  """The base with the products added, in float64."""
  own = jax.device_get(trees.leaves(adapters))

  def one(path, weight):
    if path not in MATRICES:
      return own.get(path, weight)
    pair = (np.float64(own[f'{path}/{name}']) for name in 'ab')
    return weight + SCALE * product(path, *pair)

  return trees.map_paths(one, jax.device_get(base()))


def objective(model, weights, row_B=None):
  row_B = jnp.arange(4, dtype=jnp.int32) if row_B is None else row_B
  whole = losses.GlobalBatch(jnp.sum(BATCH.weight_BL))
  key = jax.random.key(3)
  return losses.objective(model, TRAIN, weights, BATCH, row_B, key, whole)[0]


@functools.cache
def gradients():
  """(loss, gradient) of adapters, by their number."""
  own = model_of()

  def run(adapters, base):
    return jax.value_and_grad(lambda w: objective(own.on(base), w))(adapters)

  run = jax.jit(run)
  fresh = own.begin(base(), jax.random.key(0))
  return run(fresh, base()), run(moved(), base())


@functools.cache
def gradients_without():
  """(loss, gradient) of whole weights: the base, and the reference."""
  run = jax.jit(
    lambda weights: jax.value_and_grad(
      functools.partial(objective, model_of().base)
    )(weights)
  )
  place = lambda tree: jax.device_put(
    jax.tree.map(np.float32, tree), model_of().base.shardings
  )
  return run(base()), run(place(reference(moved())))


@functools.cache
def stepped(micro_batches=1, **sizes):
  """The state after a step, its metrics, and the base before and after."""
  own = model_of(**sizes)
  train = dataclasses.replace(TRAIN, micro_batches=micro_batches)
  transform = optimizer.make(OPT, 10, own.decays)
  state = states.begin(own, transform, jax.device_get(moved()))
  state = jax.device_put(state, states.shardings(own, transform))
  weights = jax.device_put(jax.device_get(base()), own.base.shardings)
  run = step.make(own, transform, OPT, train, seed=0)
  state, metrics = run(state, BATCH, weights)
  return jax.device_get((state, metrics, weights))


def test_every_matrix_has_a_pair_of_its_own_and_nothing_else_is_trained():
  shapes = trees.leaves(model_of().shapes)
  rest = {path for path in shapes if not path.endswith(('/a', '/b'))}
  assert rest == {'moe/ffn/router_state/bias/selection_bias_E'} or all(
    '/router_state/' in path for path in rest
  )
  assert {path[:-2] for path in shapes if path not in rest} == {*MATRICES}
  for path, ((inputs, outputs), number) in MATRICES.items():
    a, b = shapes[f'{path}/a'], shapes[f'{path}/b']
    assert np.prod(a.shape) == number * inputs * RANK
    assert np.prod(b.shape) == number * RANK * outputs
  counts = lora.counts(model_of())
  number = lambda group: sum(
    count * RANK * sum(sizes)
    for path, (sizes, count) in MATRICES.items()
    if f'/{group}/' in path
  )
  assert counts == {
    'attention': number('attention'),
    'experts': number('routed'),
    'shared': number('shared'),
  }


@pytest.mark.soak
def test_fresh_adapters_leave_the_model_as_it_is_to_the_bit():
  (loss, _), _ = gradients()
  (without, _), _ = gradients_without()
  assert np.asarray(loss).tobytes() == np.asarray(without).tobytes()
  own = model_of()
  fresh = own.begin(base(), jax.random.key(0))
  merged = own.merged(base(), fresh)
  for path, weight in trees.leaves(merged).items():
    np.testing.assert_array_equal(weight, trees.leaves(base())[path], path)
  drawn = trees.leaves(fresh)
  assert not np.any(drawn['moe/ffn/routed/w_in_ED2F/b'])
  # A differs by expert, by half and by layer's weight; its variance is 1 / D.
  a_ED2r = np.asarray(drawn['moe/ffn/routed/w_in_ED2F/a'])[0]
  assert len({x.tobytes() for x in a_ED2r.transpose(0, 2, 1, 3).reshape(8, -1)})
  assert 0.5 < a_ED2r.var() * 16 < 1.5


def test_merged_weights_are_the_sum_and_compute_what_adapters_compute():
  merged = model_of().merged(base(), moved())
  tiny.assert_close(merged, reference(moved()), rtol=1e-6, atol=1e-6)
  _, (loss, _) = gradients()
  _, (without, _) = gradients_without()
  np.testing.assert_allclose(loss, without, rtol=2e-6)
  (at_base, _), _ = gradients_without()
  assert abs(loss - at_base) > 0.05  # the adapters do something


def test_gradients_follow_from_those_of_the_weights():
  """dA = s dW B^T and dB = s A^T dW for each matrix."""
  _, (_, gradient) = gradients()
  _, (_, whole) = gradients_without()
  own, whole = (jax.device_get(trees.leaves(x)) for x in (gradient, whole))
  for path in MATRICES:
    form = model_of().forms[path]
    a, b = (jax.device_get(trees.leaves(moved()))[f'{path}/{x}'] for x in 'ab')
    letters = [
      f'l{x}'.replace('2', 'h') for x in (form.letters, form.a, form.b)
    ]
    w, of_a, of_b = letters
    np.testing.assert_allclose(
      own[f'{path}/a'],
      SCALE * np.einsum(f'{w},{of_b}->{of_a}', np.float64(whole[path]), b),
      rtol=1e-4,
      atol=1e-6,
      err_msg=path,
    )
    np.testing.assert_allclose(
      own[f'{path}/b'],
      SCALE * np.einsum(f'{w},{of_a}->{of_b}', np.float64(whole[path]), a),
      rtol=1e-4,
      atol=1e-6,
      err_msg=path,
    )


def test_a_step_moves_adapters_and_router_states_and_reads_the_base():
  state, metrics, weights = stepped()
  before, after = trees.leaves(jax.device_get(moved())), state.weights
  for path, weight in trees.leaves(weights).items():
    np.testing.assert_array_equal(weight, trees.leaves(base())[path], path)
  for path, weight in trees.leaves(after).items():
    assert np.any(weight != before[path]), path
  # The bias by its own rule, not by the optimiser.
  moves = [x for p, x in trees.leaves(after).items() if 'selection_bias' in p]
  assert {*np.unique(np.abs(moves))} <= {0.0, 0.5}
  moments = [x for x in jax.tree.leaves(state.opt_state) if np.ndim(x)]
  assert sum(x.size for x in moments) == 2 * trees.count(after)
  assert np.isfinite(metrics['loss'])


@pytest.mark.soak
@pytest.mark.parametrize(
  ('micro_batches', 'sizes'),
  [(4, {}), (1, {'fsdp': 2, 'expert': 2, 'model': 2})],
)
def test_meshes_and_micro_batches_do_not_change_a_step(micro_batches, sizes):
  state, metrics, _ = stepped(micro_batches, **sizes)
  want, metrics_1, _ = stepped()
  np.testing.assert_allclose(metrics['loss'], metrics_1['loss'], rtol=1e-5)
  np.testing.assert_allclose(
    metrics['gradient_norm'], metrics_1['gradient_norm'], rtol=1e-4
  )
  tiny.assert_close(state.weights, want.weights, rtol=1e-3, atol=2e-4)


def test_adapters_are_split_as_their_weights():
  axes = model_of().axes
  layers, none = 'layers', 'unsharded'
  assert axes['moe/ffn/routed/w_in_ED2F/a'] == (
    *(layers, 'expert', 'embed', none, none),
  )
  assert axes['moe/ffn/routed/w_in_ED2F/b'] == (
    *(layers, 'expert', none, none, 'mlp'),
  )
  assert axes['moe/attention/w_o_HKD/a'] == (
    *(layers, 'heads', 'head_dim', none),
  )
  assert axes['moe/attention/w_o_HKD/b'] == (layers, none, 'embed')
  own = model_of(fsdp=2, expert=2, model=2)
  shape = own.shapes['moe']['ffn']['routed']['w_in_ED2F']['a'].shape
  sharding = own.shardings['moe']['ffn']['routed']['w_in_ED2F']['a']
  # A whole expert on each of four devices.
  assert shape == (1, 4, 16, 2, RANK)
  assert sharding.shard_shape(shape) == (1, 1, 16, 2, RANK)


def test_latent_attention_has_adapters_on_all_its_projections():
  heads = Latent(q_rank=6, kv_rank=8, rope_dim=2, value_dim=4)
  config = dataclasses.replace(MODEL, heads=heads, num_kv_heads=None)
  own = lora.of(
    tiny.model(config), dataclasses.replace(CONFIG, on=('attention',))
  )
  base_of = trees.leaves(own.base.shapes)
  pairs = trees.leaves(own.shapes)
  found = {}
  for path in own.forms:
    a, b = (np.prod(pairs[f'{path}/{x}'].shape) // RANK for x in 'ab')
    assert a * b == np.prod(base_of[path].shape)
    found[path.rsplit('/', 1)[1]] = (a, b)
  assert found == {
    'w_dq_DQ': (16, 6),
    'w_uq_QHK': (6, 4 * 6),
    'w_dkv_DR': (16, 10),
    'w_ukv_RHK': (8, 4 * 8),
    'w_o_HVD': (16, 16),
  }


def test_a_sum_needs_no_layers_in_front():
  rng = np.random.default_rng(0)
  w, a, b = (rng.normal(size=size) for size in ((5, 3), (5, 2), (2, 3)))
  form = adapted.Form('DK', 'D', 'K')
  pair = adapted.Adapted(*map(jnp.asarray, (w, a, b)), form, 0.5)
  np.testing.assert_allclose(pair.array(), w + 0.5 * a @ b, rtol=1e-5)
  tree = formed.arrays({'x': pair, 'y': jnp.ones(2)})
  np.testing.assert_array_equal(tree['x'], pair.array())
  np.testing.assert_array_equal(tree['y'], np.ones(2))


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    (
      {'on': ('atention',)},
      "train.lora.on 'atention'; did you mean 'attention'",
    ),
    ({'rank': 0}, 'train.lora.alpha does nothing without adapters: set train.'),
    ({'rank': 0, 'on': ('dense',)}, 'train.lora.on does nothing without'),
    ({'rank': -1}, 'rank=-1'),
    ({'alpha': 0.0}, 'alpha=0.0'),
    ({'rank': 7}, 'matrices of rank 6: set train.lora.rank=6 or less'),
    ({'rank': 7, 'on': ('attention', 'shared')}, ''),
  ],
)
def test_keys_that_do_not_fit_are_one_line(keys, message):
  def make():
    config = dataclasses.replace(CONFIG, **keys)
    configs.TrainConfig(lora=config).check()
    lora.of(model_of().base, config)

  if not message:
    make()
    return
  with pytest.raises(errors.InputError, match=message) as e:
    make()
  assert '\n' not in str(e.value)


def test_a_group_without_weights_is_refused():
  config = tiny.model_config(num_layers=1, moe={'num_experts': 0})
  of = lambda on: lora.of(
    tiny.model(config), dataclasses.replace(CONFIG, on=on)
  )
  with pytest.raises(
    errors.InputError, match='has experts, of which the model'
  ):
    of(('attention', 'experts'))
  assert {*lora.counts(of(()))} == {'attention', 'dense'}
  with pytest.raises(errors.InputError, match='leave out one of the two'):
    configs.TrainConfig(
      lora=CONFIG, sparsity=configs.sparsity.Columns()
    ).check()


def test_a_step_of_writing_reads_experts_with_their_adapters():
  own = model_of()
  slots = cache.empty(own.base.config, rows=2, slots=4)
  token_B1, at_B1 = np.array([[3], [5]]), np.zeros((2, 1), np.int32)

  def logits(decoder):
    return decoder.step(token_B1, at_B1, at_B1 == 0, slots)[0]

  got = jax.jit(lambda w, b: logits(own.on(b).bind(w)))(moved(), base())
  merged = own.merged(base(), moved())
  want = jax.jit(lambda w: logits(own.base.bind(w)))(merged)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
