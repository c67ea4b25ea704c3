"""Multi-token prediction, against loops and against what must not change."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors, trees
from moejax.model import mtp
from moejax.moe.balance import bias, load
from moejax.plan import count
from moejax.train import loss as losses
from moejax.train import optimizer, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

CONFIG = tiny.model_config(mtp_layers=2)
DENSE = tiny.model_config(num_layers=2, mtp_layers=1, moe={'num_experts': 0})
ROWS = ([5, 4], [12], [1, 2, 3], [])
BATCH = tiny.batch(ROWS)


model_of = functools.cache(tiny.model)


@functools.partial(jax.jit, static_argnums=0)
def passes(model, weights, batch):
  row_B = jnp.arange(len(batch.token_BL))
  return losses.passes(model.bind(weights), batch, row_B, None)


def test_ahead_stays_in_the_document():
  segment_BL = jnp.array([[1, 1, 1, 2, 2, 0]])
  x_BL = jnp.array([[7, 8, 9, 5, 6, 0]])
  assert mtp.ahead(x_BL, segment_BL, 0).tolist() == x_BL.tolist()
  assert mtp.ahead(x_BL, segment_BL, 1).tolist() == [[8, 9, 0, 6, 0, 0]]
  assert mtp.ahead(x_BL, segment_BL, 2).tolist() == [[9, 0, 0, 0, 0, 0]]


def module(config, weights, k, x_LD, token_L, segment_L, position_L):
  """Equations 21 and 22 for one row, by loops."""
  w = references.float64(weights)
  joint = {
    name: jax.tree.map(lambda x: x[k], w['mtp'][name]) for name in w['mtp']
  }
  norm = lambda x_D, of: references.rms_norm(
    x_D, joint[of]['scale_D'], config.norm_eps
  )
  h_LD = np.stack([
    np.concatenate([
      norm(w['embed_VD'][t], 'norm_embed'),
      norm(x_D, 'norm_hidden'),
    ])
    @ joint['w_2CD'].reshape(-1, config.width)
    for t, x_D in zip(token_L, x_LD, strict=True)
  ])
  # The decoder of one layer, which reads h' instead of an embedding.
  kind = config.mtp_kind
  one = dataclasses.replace(
    config, num_layers=1, first_dense=0 if kind == 'moe' else 1
  )
  at = len(jax.tree.leaves(w[kind])[0]) - config.mtp_layers + k
  own = {
    'embed_VD': h_LD,
    kind: jax.tree.map(lambda x: x[at : at + 1], w[kind]),
    'norm': joint['norm'],
  }
  return references.decoder(
    one, own, np.arange(len(h_LD)), segment_L, position_L
  )


@pytest.mark.parametrize('config', [CONFIG, DENSE], ids=['moe', 'dense'])
def test_hidden_states_are_those_of_the_loops(config):
  model = model_of(config)
  weights = tiny.draw(model.shapes)
  found, out = passes(model, weights, BATCH)
  row = jax.tree.map(lambda x: x[0], BATCH)
  x_LD = np.asarray(out.x_BLD[0])
  # Documents of 5 and 4: module k has nothing to say of their last k tokens.
  says = np.array([1, 1, 1, 1, 1, 2, 2, 2, 2])
  for k, got_BLD in enumerate(found):
    valid_L = np.zeros(12, bool)
    for first, last in ((0, 5), (5, 9)):
      valid_L[first : last - k - 1] = True
    segment_L = np.where(valid_L, np.pad(says, (0, 3)), 0)
    token_L = np.roll(row.target_BL, -k)
    x_LD = module(config, weights, k, x_LD, token_L, segment_L, row.position_BL)
    np.testing.assert_allclose(
      got_BLD[0][valid_L], x_LD[valid_L], rtol=1e-4, atol=1e-4
    )


def test_what_has_nothing_to_say_is_padding():
  """Of documents of 12, 5, 4, 3, 2, 1 tokens: routed are all but the last k."""
  model = model_of(CONFIG)
  _, out = passes(model, tiny.draw(model.shapes), BATCH)
  lengths = np.array([n for row in ROWS for n in row])
  per_layer = np.asarray(out.record.stats['count_E'].total).sum(axis=1)
  tokens = [lengths, lengths, *(np.maximum(lengths - k, 0) for k in (1, 2))]
  assert per_layer.tolist() == [2 * n.sum() for n in tokens]


def test_the_model_itself_is_the_same():
  """Hidden states and steps with a cache see nothing of the modules."""
  model, plain = model_of(CONFIG), model_of()
  weights = tiny.draw(model.shapes)
  leaves = trees.leaves(weights)
  own = trees.map_paths(
    lambda path, x: (
      leaves[path][: x.shape[0]] if 'moe/' in path else leaves[path]
    ),
    plain.shapes,
  )
  _, out = passes(model, weights, BATCH)
  _, want = passes(plain, own, BATCH)
  np.testing.assert_array_equal(out.x_BLD, want.x_BLD)


def objective(model, weights, batch, weight):
  """The text's part of the loss, by log-softmax of all logits."""
  decoder = model.bind(weights)
  row_B = jnp.arange(len(batch.token_BL))
  further, out = losses.passes(decoder, batch, row_B, None)
  total = 0.0
  for k, x_BLD in enumerate([out.x_BLD, *further]):
    # What is said of a target is found by loops; its sum is one operation.
    share_BL, target_BL = np.zeros_like(batch.weight_BL), batch.target_BL * 0
    for b, segment_L in enumerate(batch.segment_BL):
      for i, segment in enumerate(segment_L):
        j = i + k
        if segment and j < len(segment_L) and segment_L[j] == segment:
          share_BL[b, i] = weight / len(further) if k else 1.0
          target_BL[b, i] = batch.target_BL[b, j]
    log_BLV = jax.nn.log_softmax(decoder.logits(x_BLD))
    own_BL1 = jnp.take_along_axis(log_BLV, target_BL[..., None], axis=-1)
    total -= jnp.vdot(share_BL, own_BL1[..., 0])
  return total / batch.weight_BL.sum()


@pytest.mark.soak
@pytest.mark.parametrize(('layers', 'experts'), [(1, 0), (2, 4)])
def test_the_loss_is_equation_24(layers, experts):
  moe = {'balance': (), 'num_experts': experts}
  config = tiny.model_config(mtp_layers=2, num_layers=layers, moe=moe)
  model, weight = tiny.model(config), 0.6
  weights = tiny.draw(model.shapes)
  run = jax.jit(
    jax.value_and_grad(
      lambda w: losses.objective(
        model,
        TrainConfig(mtp_weight=weight),
        w,
        BATCH,
        jnp.arange(4),
        None,
        losses.GlobalBatch(BATCH.weight_BL.sum()),
      ),
      has_aux=True,
    )
  )
  (got, report), gradient = run(weights)
  want, want_gradient = jax.jit(
    jax.value_and_grad(lambda w: objective(model, w, BATCH, weight))
  )(weights)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  tiny.assert_close(gradient, want_gradient, rtol=1e-3, atol=1e-5)
  assert {'mtp_1_loss', 'mtp_2_loss', 'mtp_2_accuracy'} <= report[
    'values'
  ].keys()
  # Of 12 + 5 + 4 + 3 + 2 + 1 targets, one less of each document, and so on.
  values = report['values']
  found = [values[n].weight for n in ('loss', 'mtp_1_loss', 'mtp_2_loss')]
  assert found == [27, 21, 16]


def take(model, batch, micro_batches=1):
  opt = optimizer.OptimizerConfig(peak_lr=0.02, eps=1e-2)
  train = TrainConfig(steps=100, micro_batches=micro_batches, mtp_weight=2.0)
  transform = optimizer.make(opt, 100, model.decays)
  run = step.make(model, transform, opt, train, seed=0)
  state = states.begin(model, transform, tiny.weights(model))
  return jax.device_get(run(state, batch))


@pytest.mark.soak
def test_neither_a_mesh_nor_micro_batches_change_a_step():
  parts_of = (load.ExpertLevel(2.0), bias.LossFree(0.01))
  config = tiny.model_config(
    num_layers=1, first_dense=0, mtp_layers=1, moe={'balance': parts_of}
  )
  want, want_metrics = take(tiny.model(config), BATCH)
  model = tiny.model(config, tiny.mesh(2, expert=2))
  got, metrics = take(model, BATCH, micro_batches=2)
  tiny.assert_close(metrics, want_metrics, rtol=2e-5, atol=1e-6)
  tiny.assert_close(got.weights, want.weights, rtol=1e-5, atol=2e-6)
  # Every layer with experts has a bias of its own, the modules' too.
  path = 'moe/ffn/router_state/loss_free/selection_bias_E'
  moved = trees.leaves(got.weights)[path]
  assert moved.shape == (2, 4)
  assert (moved != 0).any(axis=1).all()


def test_counts_have_the_modules():
  plain, both = count.count(tiny.MODEL), count.count(CONFIG)
  block = (both.total_of['attention'] - plain.total_of['attention']) / 2
  assert block == plain.total_of['attention'] / tiny.MODEL.num_layers
  width = CONFIG.width
  assert both.total_of['multi-token prediction'] == 2 * (
    2 * width**2 + 3 * width
  )
  # Two more of: a layer with experts, a joint matrix, a head.
  one = dataclasses.replace(tiny.MODEL, num_layers=tiny.MODEL.num_layers + 1)
  layer = count.count(one).flops(8) - plain.flops(8)
  more = 3 * 2 * 8 * (2 * width**2 + CONFIG.vocab_size * width)
  assert both.flops(8) == pytest.approx(plain.flops(8) + 2 * (layer + more))


def test_a_negative_number_is_refused():
  with pytest.raises(errors.InputError, match='mtp_layers=-1'):
    tiny.model_config(mtp_layers=-1).check()
