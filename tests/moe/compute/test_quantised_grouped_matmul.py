"""Quantised grouped matmuls against numpy, and in a layer on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import rounding, tiny, whole_layers
from jax.sharding import PartitionSpec as P

from moejax.core import errors, quantization
from moejax.moe import contract, layer
from moejax.moe.compute import blocks, implementations
from moejax.moe.compute import quantised_grouped_matmul as quantised
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.feed_forward import TokenInfo

NAMES = ['fp8', 'int8']
R, D, F = 40, 5, 7
SMALL = {'blocked': quantised.Blocked(blocks.Blocks(block=2, ladder=(4, 2, 1)))}
UNEQUAL = {
  'an empty expert': [6, 0, 22, 4],
  'nobody has a row': [0, 0, 0, 0],
}
SIZES = {
  name: {'equal': [10, 10, 10, 10]} if name == 'batched' else UNEQUAL
  for name in quantised.QUANTISED
}


def inputs():
  rng = np.random.default_rng(0)
  shapes = (R, D), (4, D, F), (R, F)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope='module')
def runs():
  """By name of the matmul and of the types: (x, w, dy, sizes) -> y, dx, dw."""

  def make(name, types):
    products = SMALL.get(name) or quantised.QUANTISED[name]()
    multiply = quantised.Quantised(products, quantization.types_of(types))

    @jax.jit
    def run(x_RD, w_EDF, dy_RF, size_E):
      y_RF, pull = jax.vjp(lambda x, w: multiply(x, w, size_E), x_RD, w_EDF)
      return y_RF, *pull(dy_RF)

    return run

  return {
    (name, types): make(name, types)
    for name in quantised.QUANTISED
    for types in NAMES
  }


@pytest.mark.parametrize('types', NAMES)
@pytest.mark.parametrize(
  ('name', 'which'),
  [(name, which) for name in SIZES for which in SIZES[name]],
)
def test_value_and_gradients_are_those_of_rounded_factors(
  name, which, types, runs
):
  sizes = SIZES[name][which]
  x_RD, w_EDF, dy_RF = inputs()
  y_RF, dx_RD, dw_EDF = runs[name, types](
    x_RD, w_EDF, dy_RF, jnp.asarray(sizes, jnp.int32)
  )

  forward, backward = rounding.TYPES[types]
  want_RF, want_RD = np.zeros((R, F)), np.zeros((R, D))
  want_EDF, start = np.zeros((4, D, F)), 0
  for expert, size in enumerate(sizes):
    rows = slice(start, start + size)
    w_DF = w_EDF[expert]
    if size:
      want_RF[rows] = rounding.product(x_RD[rows], w_DF, forward, forward)
      want_RD[rows] = rounding.product(dy_RF[rows], w_DF.T, backward, forward)
    # Not rounded: the gradient passes the rounding straight through.
    want_EDF[expert] = x_RD[rows].astype(np.float64).T @ dy_RF[rows]
    start += size
  for got, want in ((y_RF, want_RF), (dx_RD, want_RD), (dw_EDF, want_EDF)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


@pytest.mark.soak
@pytest.mark.parametrize('types', NAMES)
@pytest.mark.parametrize(
  ('name', 'mesh'),
  [
    ('deepseek_moe', 'expert'),
    ('deepseek_moe', 'expert_context'),
    ('gshard', 'expert'),
  ],
)
def test_a_quantised_layer_on_a_mesh_equals_one_device(name, mesh, types):
  whole_layers.check(whole_layers.config_of(name), mesh, types)


def test_quantised_experts_on_two_devices_equal_those_on_one():
  """Both by qwix's `ragged_dot`; each of two devices has two of the experts."""
  config = MoEConfig(num_experts=4, grouped_matmul='ragged_dot')
  compute = implementations.choose(config, 'cpu', quantization='int8')
  mesh = tiny.mesh(2, data=1, expert=2)
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  weights = {'w_in_ED2F': draw(4, D, 2, F), 'w_out_EFD': draw(4, F, D)}
  x_TD, expert_A = draw(8, D), np.array([0, 1, 2, 3, 3, 3, 1, 1], np.int32)

  def run(weights, x_TD, expert_A, experts_of):
    routing = contract.Routing(
      token_A=jnp.arange(len(expert_A), dtype=jnp.int32),
      expert_A=expert_A,
      weight_A=jnp.ones(expert_A.shape),
      prob_TE=jnp.zeros((len(expert_A), 4)),
      per_token=1,
    )
    return experts_of(compute, weights, x_TD, routing, 4).out_TD

  def gradients(run):
    pull = lambda w, x: jnp.vdot(jnp.sin(x_TD), run(w, x, expert_A))
    return jax.device_get(jax.jit(jax.grad(pull, (0, 1)))(weights, x_TD))

  own = functools.partial(run, experts_of=lambda compute, *args: compute(*args))
  moved = functools.partial(run, experts_of=EXPERT_PARALLEL['all_gather']())
  split = P('expert')
  shards = jax.shard_map(
    moved, mesh=mesh, in_specs=(split,) * 3, out_specs=split
  )
  tiny.assert_close(gradients(shards), gradients(own), 1e-6, 1e-6)


@pytest.fixture(scope='module')
def layers():
  """Output and record of a layer by its quantisation, for the same tokens."""
  config = whole_layers.config_of('deepseek_moe')
  x_BLD = whole_layers.X_BLD
  index_BL = jnp.arange(x_BLD[..., 0].size).reshape(x_BLD.shape[:2])
  tokens = TokenInfo(jnp.asarray(whole_layers.VALID_BL), index_BL, index_BL)

  def run(name):
    key = jax.random.key(0)
    graph, weights = tiny.module(
      lambda: layer.MoE(
        config, x_BLD.shape[-1], 1.0, tiny.mesh(), key, quantization=name
      ),
      std=0.5,
    )
    apply = lambda w: tiny.bind(graph, w)(x_BLD, tokens, None, None)
    out_BLD, previous, _ = jax.jit(apply)(weights)
    return out_BLD, previous.chosen_BLE

  return {name: jax.device_get(run(name)) for name in ('none', *NAMES)}


@pytest.mark.parametrize('types', NAMES)
def test_routing_of_the_same_tokens_is_the_same(types, layers):
  np.testing.assert_array_equal(layers[types][1], layers['none'][1])


@pytest.mark.parametrize(
  ('types', 'least', 'most'),
  [
    # A step of int8 is 1/127 of the largest number of a row, one of E4M3 is 1/8
    # of a number: errors are at most half a step in each factor, and three
    # products follow each other.
    ('int8', 1e-4, 6 * 0.5 / 127),
    ('fp8', 1e-3, 6 * 0.5 / 8),
  ],
)
def test_output_of_a_layer_is_near_that_without_rounding(
  types, least, most, layers
):
  plain, found = layers['none'][0], layers[types][0]
  error = np.linalg.norm(found - plain) / np.linalg.norm(plain)
  assert least < error < most


@pytest.mark.parametrize(
  ('platform', 'dispatcher', 'name'),
  [
    ('cpu', 'dropless', 'blocked'),
    ('cpu', 'capacity', 'batched'),
    ('tpu', 'dropless', 'ragged_dot'),
    ('gpu', 'dropless', 'ragged_dot'),
  ],
)
def test_what_auto_takes(platform, dispatcher, name):
  config = MoEConfig(num_experts=4, dispatcher=DISPATCHERS[dispatcher]())
  chosen = implementations.choose(config, platform, quantization='int8')
  assert chosen.multiply.products == quantised.QUANTISED[name]()
  staged = implementations.choose_staged(config, platform, 'int8')
  assert staged == chosen


@pytest.mark.parametrize('name', ['fused', 'megablox', 'triton', 'tokamax'])
def test_what_cannot_be_quantised_is_one_line(name):
  config = MoEConfig(num_experts=4, grouped_matmul=name)
  with pytest.raises(errors.InputError) as error:
    implementations.choose(config, 'cpu', quantization='int8')
  assert str(error.value) == (
    f'model.moe.grouped_matmul={name} cannot multiply in '
    'model.quantization=int8: set it to auto, or to one of batched, blocked, '
    'ragged_dot, reference'
  )


def test_equal_groups_are_asked_of_a_quantised_batch_too():
  config = MoEConfig(num_experts=4, grouped_matmul='batched')
  with pytest.raises(errors.InputError, match='equally many rows'):
    implementations.choose(config, 'cpu', quantization='int8')
