"""The whole decoder against loops, and what must not change its result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors, trees
from moejax.model.attention import cache
from moejax.moe import balance

L = 12
ROWS = ([5, 4], [12], [3, 1, 6], [1], [2, 10], [7], [6, 6], [11])


@functools.cache
def model_of(config=tiny.MODEL, devices=1, fsdp=1):
  return tiny.model(config, tiny.mesh(devices, fsdp=fsdp))


def run(model, weights, batch):
  return model.bind(weights)(
    batch.token_BL, batch.segment_BL, batch.position_BL
  )


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, weights, batch):
  return run(model, weights, batch).x_BLD


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, weights, batch):
  """All there is in one number: logits, and the record's balance losses."""

  def loss(weights):
    decoder = model.bind(weights)
    out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL)
    nll_BL = -jnp.take_along_axis(
      jax.nn.log_softmax(decoder.logits(out.x_BLD)),
      batch.target_BL[..., None],
      axis=-1,
    )[..., 0]
    total, _ = balance.total(model.config.moe.balance, out.record.balance)
    return jnp.sum(nll_BL * batch.weight_BL) / 60 + 10 * total

  return jax.value_and_grad(loss)(weights)


@pytest.fixture(scope='module')
def plain():
  """Loss and gradient of the tiny model, on one device."""
  model = model_of()
  return loss_and_gradient(model, tiny.weights(model), tiny.batch(ROWS))


def test_hidden_states_are_those_of_the_loops():
  """A dense and two MoE layers, grouped queries, packed rows, padding."""
  model, batch = model_of(), tiny.batch(ROWS)
  weights = tiny.draw(model.shapes)
  got_BLD = hidden(model, tiny.weights(model), batch)
  for row in (0, 2):
    want_LD = references.decoder(
      model.config,
      weights,
      batch.token_BL[row],
      batch.segment_BL[row],
      batch.position_BL[row],
    )
    np.testing.assert_allclose(got_BLD[row], want_LD, rtol=1e-4, atol=1e-4)


def test_logits_are_the_heads():
  model, batch = model_of(), tiny.batch(ROWS)
  weights = tiny.weights(model)
  logits_BLV = jax.jit(lambda w, x_BLD: model.bind(w).logits(x_BLD))(
    weights, hidden(model, weights, batch)
  )
  want_BLV = np.einsum(
    'bld,dv->blv', hidden(model, weights, batch), weights['head_DV']
  )
  assert logits_BLV.dtype == jnp.float32
  np.testing.assert_allclose(logits_BLV, want_BLV, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def influence(model, weights, token_BL, segment_BL, position_BL, at):
  """How much each token moves the hidden state of row 0 at one place.

  Every token's id is its own, so that is the gradient to the id's embedding.
  """
  pull_D = jnp.linspace(-1, 1, model.config.width)

  def out(embed_VD):
    moved = {**weights, 'embed_VD': embed_VD}
    x_BLD = model.bind(moved)(token_BL, segment_BL, position_BL).x_BLD
    return x_BLD[0, at] @ pull_D

  return jnp.abs(jax.grad(out)(weights['embed_VD'])[token_BL]).sum(axis=-1)


@pytest.mark.parametrize('at', [0, 4, 5, 8, 11])
def test_causality_and_isolation_by_gradient(at):
  """Exactly zero for later tokens, other documents, and other rows."""
  model = model_of()
  segment_BL, position_BL = (
    np.stack(x)
    for x in zip(
      tiny.documents([5, 4], L), tiny.documents([12], L), strict=True
    )
  )
  token_BL = np.arange(1, 25, dtype=np.int32).reshape(2, L)
  by_BL = influence(
    model, tiny.weights(model), token_BL, segment_BL, position_BL, at
  )
  seen_BL = np.zeros((2, L), bool)
  seen_BL[0] = (np.arange(L) <= at) & (segment_BL[0] == segment_BL[0, at])
  np.testing.assert_array_equal(by_BL > 0, seen_BL)


def test_packed_documents_have_the_states_they_have_alone():
  model = model_of()
  weights = tiny.weights(model)
  packed = tiny.batch([[5, 7], [12]])
  apart = tiny.batch([[5], [7]])
  apart.token_BL[0, :5] = packed.token_BL[0, :5]
  apart.token_BL[1, :7] = packed.token_BL[0, 5:]
  packed_BLD = hidden(model, weights, packed)
  apart_BLD = hidden(model, weights, apart)
  for got, want in (
    (packed_BLD[0, :5], apart_BLD[0, :5]),
    (packed_BLD[0, 5:], apart_BLD[1, :7]),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_tied_embeddings_share_the_gradient():
  """d/d embed = that of the lookup + that of the head, transposed."""
  small = {'num_layers': 1, 'moe': {'num_experts': 0, 'balance': ()}}
  tied = model_of(tiny.model_config(tie_embeddings=True, **small))
  apart = model_of(tiny.model_config(**small))
  weights = tiny.weights(tied)
  assert set(trees.leaves(apart.shapes)) == {
    'head_DV',
    *trees.leaves(tied.shapes),
  }
  batch = tiny.batch(ROWS)
  copied = {**weights, 'head_DV': weights['embed_VD'].T}
  loss, gradient = loss_and_gradient(tied, weights, batch)
  want, parts = loss_and_gradient(apart, copied, batch)
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(
    gradient['embed_VD'],
    parts['embed_VD'] + parts['head_DV'].T,
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.soak
@pytest.mark.parametrize(
  'changes',
  [{'remat': 'matmuls'}, {'remat': 'full', 'scan_unroll': 9}],
  ids=str,
)
def test_remat_and_unrolling_change_nothing(plain, changes):
  model = model_of(tiny.model_config(**changes))
  got = loss_and_gradient(model, tiny.weights(model), tiny.batch(ROWS))
  np.testing.assert_allclose(got[0], plain[0], rtol=1e-6)
  tiny.assert_close(got[1], plain[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('fsdp', [pytest.param(1, marks=pytest.mark.soak), 4])
def test_eight_devices_equal_one(plain, fsdp):
  """data=8 and data=2 x fsdp=4."""
  model = model_of(devices=8, fsdp=fsdp)
  weights = tiny.weights(model)
  loss, gradient = loss_and_gradient(model, weights, tiny.batch(ROWS))
  np.testing.assert_allclose(loss, plain[0], rtol=1e-6)
  tiny.assert_close(gradient, plain[1], rtol=1e-5, atol=2e-6)
  embed = weights['embed_VD']
  assert embed.sharding.shard_shape(embed.shape) == (64, 16 // fsdp)


def test_bfloat16_compute_is_close_to_float32():
  model, batch = model_of(), tiny.batch(ROWS)
  half = model_of(tiny.model_config(dtype='bfloat16'))
  weights = tiny.weights(model)
  assert {x.dtype for x in jax.tree.leaves(half.shapes)} == {
    jnp.dtype('float32')
  }
  want_BLD = hidden(model, weights, batch)
  got_BLD = hidden(half, weights, batch)
  assert got_BLD.dtype == jnp.bfloat16
  error_BL = np.linalg.norm(got_BLD.astype(jnp.float32) - want_BLD, axis=-1)
  # A token whose second and third expert are nearly equal may change sides.
  assert np.median(error_BL / np.linalg.norm(want_BLD, axis=-1)) < 0.03


@functools.partial(jax.jit, static_argnums=0)
def decode(model, weights, token_BL, position_BL, valid_BL, past):
  return model.bind(weights).step(token_BL, position_BL, valid_BL, past)


@functools.partial(jax.jit, static_argnums=0)
def all_logits(model, weights, batch):
  decoder = model.bind(weights)
  return decoder.logits(run(model, weights, batch).x_BLD)


@pytest.fixture(scope='module')
def prompts():
  """A full row and a short one, and their logits from the forward pass."""
  model, batch = model_of(), tiny.batch([[12], [7]])
  weights = tiny.weights(model)
  return model, weights, batch, all_logits(model, weights, batch)


def test_a_prompt_in_one_go_is_the_forward_pass(prompts):
  model, weights, batch, want_BLV = prompts
  valid_BL = batch.segment_BL > 0
  past = cache.empty(model.config, rows=2, slots=L + 3)
  position_BL = np.tile(np.arange(L), (2, 1))
  got_BLV, past = decode(
    model, weights, batch.token_BL, position_BL, valid_BL, past
  )
  assert past.k_NBGSK.shape == (3, 2, 2, L + 3, 4)
  np.testing.assert_allclose(
    got_BLV[valid_BL], want_BLV[valid_BL], rtol=1e-4, atol=1e-5
  )


def test_token_by_token_is_the_forward_pass_at_every_position(prompts):
  model, weights, batch, want_BLV = prompts
  past = cache.empty(model.config, rows=2, slots=L)
  for at in range(L):
    got_B1V, past = decode(
      model,
      weights,
      batch.token_BL[:, at : at + 1],
      np.full((2, 1), at),
      np.ones((2, 1), bool),
      past,
    )
    rows = [0, 1] if at < 7 else [0]
    np.testing.assert_allclose(
      got_B1V[rows, 0], want_BLV[rows, at], rtol=1e-4, atol=1e-5
    )


def test_prompts_of_unequal_length_go_on_each_at_its_own_position(prompts):
  """The short row's padding lies in slots that its next tokens overwrite."""
  model, weights, batch, _ = prompts
  longer = tiny.batch([[12], [12]], seed=5)
  token_BL = np.where(batch.segment_BL > 0, batch.token_BL, longer.token_BL)
  full = dataclasses.replace(longer, token_BL=token_BL)
  want_BLV = all_logits(model, weights, full)
  start = np.array([9, 7])
  valid_BL = np.arange(L) < start[:, None]
  past = cache.empty(model.config, rows=2, slots=L + 3)
  position_BL = np.tile(np.arange(L), (2, 1))
  _, past = decode(
    model,
    weights,
    np.where(valid_BL, token_BL, 63),
    position_BL,
    valid_BL,
    past,
  )
  for step in range(3):
    at_B1 = start[:, None] + step
    got_B1V, past = decode(
      model,
      weights,
      np.take_along_axis(token_BL, at_B1, axis=1),
      at_B1,
      np.ones((2, 1), bool),
      past,
    )
    for row in (0, 1):
      np.testing.assert_allclose(
        got_B1V[row, 0], want_BLV[row, start[row] + step], rtol=1e-4, atol=1e-5
      )


@pytest.mark.soak
def test_initial_weights_have_the_std_asked_for():
  config = tiny.model_config(
    width=64, vocab_size=256, dense_width=64, init_std=0.006
  )
  config = dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, expert_width=32)
  )
  model = model_of(config)
  # Of two keys, as one program.
  both = trees.leaves(jax.vmap(model.init)(jax.random.split(jax.random.key(0))))
  weights, other = ({p: x[i] for p, x in both.items()} for i in (0, 1))
  seen = set()
  for path, leaf in weights.items():
    if 'scale' in path:
      np.testing.assert_array_equal(leaf, 1)
      continue
    # The deviation of a sample deviation is std / sqrt(2 n).
    assert abs(np.std(leaf) / 0.006 - 1) < 5 / np.sqrt(2 * leaf.size), path
    assert abs(np.mean(leaf)) < 5 * 0.006 / np.sqrt(leaf.size), path
    # No two weights, no two layers of one, and no two keys' are alike.
    layers = leaf if path.startswith(('dense', 'moe')) else [leaf]
    for layer in (*layers, other[path]):
      first = np.asarray(layer).ravel()[:4].tobytes()
      assert first not in seen, path
      seen.add(first)


@pytest.mark.parametrize(
  ('first_dense', 'experts', 'dense', 'moe'),
  [(0, 4, 0, 3), (1, 4, 1, 2), (3, 4, 3, 0), (1, 0, 3, 0)],
)
def test_which_layers_are_dense(first_dense, experts, dense, moe):
  config = tiny.model_config(
    first_dense=first_dense, moe={'num_experts': experts}
  )
  assert (config.num_dense, config.num_moe) == (dense, moe)
  shapes = model_of(config).shapes
  for kind, count in (('dense', dense), ('moe', moe)):
    stack = jax.tree.leaves(shapes.get(kind, {}))
    assert {leaf.shape[0] for leaf in stack} == ({count} if count else set())


def test_a_model_without_experts_reports_nothing():
  model = model_of(tiny.model_config(moe={'num_experts': 0}))
  batch = tiny.batch(ROWS[:1])
  record = jax.eval_shape(lambda w: run(model, w, batch).record, model.shapes)
  assert jax.tree.leaves(record) == []


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_kv_heads': 3}, 'model.num_kv_heads=3 does not divide model.num_hea'),
    ({'head_dim': 5}, 'model.head_dim=5 must be even'),
    (
      {'qk_norm_after_rope': True},
      'but model.qk_norm=none: set model.qk_',
    ),
    ({'first_dense': 4}, 'model.first_dense=4 must be at most model.num_l'),
    (
      {'moe': {'num_experts': 1}},
      '^model.moe.router.k=2 experts per token, but there',
    ),
  ],
)
def test_sizes_that_do_not_fit(changes, message):
  with pytest.raises(errors.InputError, match=message):
    tiny.model(tiny.model_config(**changes))


def test_a_width_that_does_not_divide_over_the_mesh():
  with pytest.raises(errors.InputError, match='embed=20 does not split 8 ways'):
    tiny.model(tiny.model_config(width=20), tiny.mesh(8, fsdp=8))
