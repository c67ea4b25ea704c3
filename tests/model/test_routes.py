"""Routes that leave the decoder, and the replay of routes in it.

The order of layers and of ranks, the ids and the weights are all right if the
replay of what a model has recorded gives the model's own output.
"""

import functools
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.model import block
from moejax.moe import decide, feed_forwards, layer
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.replay import NOWHERE, Replay
from moejax.moe.routers import ROUTERS
from moejax.moe.routes import RoutesRequest
from moejax.train import optimizer, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

ROWS = ([5, 4], [12], [3, 1, 6], [1], [2, 10], [7], [6, 6], [11])
BATCH = tiny.batch(ROWS)
# Layers d d m d m, of which each group of two is one step of a loop, over parts
# of the rows.
CONFIG = tiny.model_config(
  num_layers=5, first_dense=1, moe_every=2, remat='full', token_chunks=4
)
REQUEST = RoutesRequest(logits=True)
DROPS = {
  'num_experts': 8,
  'router': ROUTERS['top_k'](k=3, score='sigmoid', renormalise=True),
  'dispatcher': DISPATCHERS['capacity'](factor=0.5),
}
DROPPING = tiny.model_config(moe=DROPS)
MESH = {'data': 2, 'expert': 4}


@functools.cache
def model_of(config=CONFIG, **mesh):
  return tiny.model(config, tiny.mesh(8 if mesh else 1, **mesh))


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, weights, replay=None, routes=None):
  return model.bind(weights)(
    BATCH.token_BL,
    BATCH.segment_BL,
    BATCH.position_BL,
    routes=routes,
    replay=replay,
  )


@functools.cache
def recorded(config=CONFIG, **mesh):
  """A model's own output, with its routes."""
  model = model_of(config, **mesh)
  return jax.device_get(run(model, tiny.weights(model), None, REQUEST))


CASES = [
  pytest.param(CONFIG, {}, id='stages'),
  pytest.param(DROPPING, {}, id='drops'),
  pytest.param(DROPPING, MESH, id='drops_on_a_mesh'),
]


@pytest.mark.parametrize(('config', 'mesh'), CASES)
def test_routes_are_what_the_layers_did(config, mesh):
  out = recorded(config, **mesh)
  routes, experts = out.record.routes, config.moe.num_experts
  layers, k = config.num_moe, config.moe.router.k
  assert routes.expert_BLK.shape == (layers, *BATCH.token_BL.shape, k)
  assert routes.logits_BLE.shape == (layers, *BATCH.token_BL.shape, experts)
  padding_BL = BATCH.segment_BL == 0
  assert (routes.expert_BLK[:, padding_BL] == NOWHERE).all()
  assert (routes.expert_BLK[:, ~padding_BL] != NOWHERE).all()
  for n in range(layers):
    ids = routes.expert_BLK[n, ~padding_BL]
    np.testing.assert_array_equal(
      np.bincount(ids.ravel(), minlength=experts),
      out.record.stats['count_E'].total[n],
    )
    np.testing.assert_allclose(
      routes.dropped_BLK[n, ~padding_BL].sum(),
      out.record.stats['dropped'].total[n],
    )
    np.testing.assert_allclose(
      routes.entropy_BL[n].sum(),
      out.record.stats['entropy'].total[n],
      rtol=1e-5,
    )
  best = np.argmax(routes.logits_BLE, axis=-1)
  np.testing.assert_array_equal(
    routes.expert_BLK[:, ~padding_BL][..., 0], best[:, ~padding_BL]
  )
  assert routes.dropped_BLK.any() == config.moe.dispatcher.equal_groups


# On a mesh it drops as well.
@pytest.mark.parametrize(('config', 'mesh'), [CASES[0], CASES[2]])
def test_a_replay_of_a_models_own_routes_is_the_model(config, mesh):
  model, own = model_of(config, **mesh), recorded(config, **mesh)
  for weights in (False, True) if mesh else (False,):
    replay = Replay.of(own.record.routes, weights=weights)
    out = run(model, tiny.weights(model), replay, REQUEST)
    np.testing.assert_array_equal(out.x_BLD, own.x_BLD)
    jax.tree.map(
      np.testing.assert_array_equal, out.record.routes, own.record.routes
    )


def test_the_routes_are_those_of_one_device():
  one, mesh = recorded(DROPPING), recorded(DROPPING, **MESH)
  routes, on_mesh = one.record.routes, mesh.record.routes
  np.testing.assert_array_equal(on_mesh.expert_BLK, routes.expert_BLK)
  np.testing.assert_array_equal(on_mesh.dropped_BLK, routes.dropped_BLK)
  np.testing.assert_allclose(on_mesh.weight_BLK, routes.weight_BLK, rtol=1e-4)


def another(config, seed=0):
  """Other experts for every token, some of them none."""
  rng = np.random.default_rng(seed)
  shape = (*BATCH.token_BL.shape, config.num_moe)
  order = np.argsort(rng.random((*shape, config.moe.num_experts)), axis=-1)
  expert_BLNK = order[..., : config.moe.router.k].astype(np.int32)
  expert_BLNK[1, 2, :, -1] = NOWHERE
  expert_BLNK[1, 3] = NOWHERE
  return Replay(expert_BLNK, None, np.zeros(expert_BLNK.shape, bool))


def test_a_replay_changes_the_experts():
  model = model_of()
  replay = another(CONFIG)
  out = run(model, tiny.weights(model), replay, REQUEST)
  assert not np.array_equal(out.x_BLD, recorded().x_BLD)
  expert_NBLK = np.moveaxis(replay.expert_BLNK, 2, 0)
  padding_BL = BATCH.segment_BL == 0
  want = np.where(padding_BL[..., None], NOWHERE, expert_NBLK)
  found = np.sort(out.record.routes.expert_BLK, axis=-1)
  np.testing.assert_array_equal(found, np.sort(want, axis=-1))


def test_a_mesh_replays_as_one_device():
  replay = another(DROPPING)
  one, mesh = (
    run(model, tiny.weights(model), replay, REQUEST).x_BLD
    for model in (model_of(DROPPING), model_of(DROPPING, **MESH))
  )
  np.testing.assert_allclose(mesh, one, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_two_back_ends_with_equal_routes_agree_to_rounding():
  """Near ties may be routed apart; with a replay only rounding is left."""
  config = tiny.model_config(num_layers=2, moe={'grouped_matmul': 'fused'})
  other = tiny.model_config(num_layers=2, moe={'grouped_matmul': 'ragged_dot'})
  replay = Replay.of(recorded(config).record.routes)
  out = run(model_of(other), tiny.weights(model_of(other)), replay)
  np.testing.assert_allclose(
    out.x_BLD, recorded(config).x_BLD, rtol=1e-5, atol=1e-5
  )


@pytest.mark.soak
def test_gradients_of_a_replay_are_the_models():
  """With live weights; recorded ones bring the routers no gradient."""
  config = tiny.model_config(num_layers=1, first_dense=0)
  model = model_of(config)

  @jax.jit
  def gradient(weights, replay):
    def loss(weights):
      out = run(model, weights, replay)
      return jnp.sum(jnp.sin(out.x_BLD.astype(jnp.float32)))

    return jax.grad(loss)(weights)

  weights, routes = tiny.weights(model), recorded(config).record.routes
  want = gradient(weights, None)
  live = gradient(weights, Replay.of(routes))
  tiny.assert_close(live, want, rtol=1e-4, atol=1e-5)
  router = lambda tree: tree['moe']['ffn']['router']['w_DE']
  assert np.any(router(want))
  fixed = gradient(weights, Replay.of(routes, weights=True))
  assert not np.any(router(fixed))
  routed = lambda tree: tree['moe']['ffn']['routed']
  tiny.assert_close(routed(fixed), routed(want), rtol=1e-4, atol=1e-5)


def test_layers_of_multi_token_prediction_are_left_out():
  model = model_of(tiny.model_config(mtp_layers=1))

  def passes(weights, replay):
    decoder = model.bind(weights)
    rest = BATCH.segment_BL, BATCH.position_BL
    out = decoder(BATCH.token_BL, *rest, routes=REQUEST, replay=replay)
    _, out = decoder.predict(out, BATCH.target_BL, *rest)
    return out.record

  replay = Replay(jnp.zeros((*BATCH.token_BL.shape, 2, 2), jnp.int32))
  record = jax.eval_shape(passes, model.shapes, replay)
  assert len(record.stats['count_E'].total) == 3
  assert len(record.routes.expert_BLK) == 2


SHAPE = (*BATCH.token_BL.shape, 2, 2)
ZERO = np.zeros(SHAPE, np.int32)
TWO = ZERO + np.array([0, 1])


def at(value):
  """Ids of which one is another."""
  ids = TWO.astype(np.int32)
  ids[4, 7, 1, 0] = value
  return ids


@pytest.mark.parametrize(
  ('replay', 'line'),
  [
    (Replay(TWO[:, :, :1]), r'\(8, 12, 1, 2\).* 2 layers with experts'),
    (Replay(TWO[:4]), r'\(4, 12, 2, 2\).* 8 rows of 12 tokens'),
    (Replay(TWO[..., 0]), r'must be \(8, 12, 2, k\)'),
    (Replay(TWO.astype(np.float32)), 'float32; ids of experts are integers'),
    (Replay(TWO, TWO[..., :1]), r'weight_BLNK has the shape \(8, 12, 2, 1\)'),
    (Replay(TWO, None, TWO[:1]), 'dropped_BLNK has the shape'),
    (Replay(at(4)), 'expert 4 in row 4, token 7, layer 1 .* 0 to 3, and -1'),
    (Replay(at(-2)), 'expert -2 in row 4, token 7, layer 1'),
    (Replay(at(1)), 'expert 1 twice in row 4, token 7, layer 1'),
    (Replay(TWO[..., :1]), 'have 1 experts per token, .* chooses 2; give 2'),
  ],
)
def test_a_replay_that_does_not_fit_is_one_line(replay, line):
  model = model_of(tiny.MODEL)

  def run(weights):
    decoder = model.bind(weights)
    return decoder(
      BATCH.token_BL, BATCH.segment_BL, BATCH.position_BL, replay=replay
    )

  with pytest.raises(errors.InputError, match=line) as error:
    jax.eval_shape(run, model.shapes)
  assert '\n' not in str(error.value)


SOFT = feed_forwards.SoftMoEConfig(num_experts=4, not_causal=True)
PEER = feed_forwards.PEERConfig(num_keys=4, num_heads=2, k=2, key_width=4)


@pytest.mark.parametrize(
  ('changes', 'more', 'line'),
  [
    ({'moe': {'num_experts': 0}}, {'routes': REQUEST}, 'no layer with experts'),
    ({'feed_forward': SOFT}, {'routes': REQUEST}, 'soft_moe has no routes'),
    ({'feed_forward': PEER}, {'routes': REQUEST}, 'peer .* without logits'),
    ({'feed_forward': PEER}, {'replay': Replay(TWO)}, 'peer cannot replay'),
  ],
)
def test_models_without_routes_say_so_in_one_line(changes, more, line):
  model = model_of(tiny.model_config(**changes))

  def run(weights):
    decoder = model.bind(weights)
    return decoder(BATCH.token_BL, BATCH.segment_BL, BATCH.position_BL, **more)

  with pytest.raises(errors.InputError, match=line) as error:
    jax.eval_shape(run, model.shapes)
  assert '\n' not in str(error.value)


@flax.struct.dataclass
class BareTokens:
  """`TokenInfo` without the fields of routes."""

  valid_BL: jax.Array
  index_BL: jax.Array
  token_BL: jax.Array
  routes: ClassVar[None] = None
  replayed: ClassVar[None] = None
  row_axes: ClassVar[tuple[str, ...]] = ()


@flax.struct.dataclass
class BareRecord:
  """`Record` without routes."""

  balance: dict
  stats: dict
  routes: ClassVar[None] = None


def step_text(model):
  """The program of a training step, without and with its source lines."""
  opt, train = optimizer.OptimizerConfig(), TrainConfig()
  transform = optimizer.make(opt, 10, model.decays)
  run = step.make(model, transform, opt, train, seed=0)
  state = jax.eval_shape(
    lambda weights: states.begin(model, transform, weights), model.shapes
  )
  lowered = run.lower(state, BATCH)
  return lowered.as_text(), lowered.as_text(debug_info=True)


def test_a_training_step_without_a_request_is_as_if_there_were_none(
  monkeypatch,
):
  """The same program as of layers that have no routes to give."""
  model = model_of(tiny.MODEL)
  text, with_lines = step_text(model)
  sources = ('moe/routes.py', 'moe/replay.py')
  assert not any(source in with_lines for source in sources)
  asked = run.lower(model, model.shapes, another(tiny.MODEL), REQUEST)
  assert all(s in asked.as_text(debug_info=True) for s in sources)
  monkeypatch.setattr(block, 'TokenInfo', lambda *args: BareTokens(*args[:3]))
  monkeypatch.setattr(layer, 'Record', BareRecord)
  monkeypatch.setattr(decide, 'Record', BareRecord)
  assert step_text(model)[0] == text
