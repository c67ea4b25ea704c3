"""Every algorithm of the zoo builds, keeps its budget, and learns."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny

from moejax import config as configs
from moejax.config import user_files
from moejax.core import errors, table, trees
from moejax.model import block, build
from moejax.model.attention import cache
from moejax.moe import balance, feed_forward, scorers
from moejax.moe.feed_forward import TokenInfo
from moejax.plan import count

ROOT = pathlib.Path(__file__).parents[1]
ZOO = str(ROOT / 'configs' / 'zoo.py')
zoo = user_files.load(ZOO, 'config')
EACH = pytest.mark.parametrize('name', zoo.NAMES)

# hidden units of all experts of a layer, and of those that a token uses.
TOTAL, ACTIVE, WIDTH = 4 * 1536 * 128 * 3, 4 * 192 * 128 * 3, 16
# What is not a choice of so and so many experts has more or less; zoo.py says.
LESS = {'dense': 0, 'moe_pp': 0.75, 'peer': 0.9}
MORE_ROUTER = {'hyper_router', 'peer', 'soft_moe', 'stable_moe'}


@EACH
def test_the_budget_is_the_same_for_all(name):
  """Experts and shared experts together, within 2%; routers are small."""
  counted = count.count(configs.load(f'{ZOO}:{name}').model)
  parts = ('routed experts', 'shared experts')
  total = sum(counted.total_of[part] for part in parts)
  active = sum(counted.active_of[part] for part in parts)
  if name != 'dense':
    np.testing.assert_allclose(total, TOTAL, rtol=0.02)
    np.testing.assert_allclose(active, ACTIVE * LESS.get(name, 1), rtol=0.02)
  else:
    assert counted.total_of['dense feed-forward'] == ACTIVE
  if name not in MORE_ROUTER:
    assert counted.total_of['routers'] < 0.02 * TOTAL


def test_an_unknown_name_lists_the_known():
  with pytest.raises(errors.InputError, match=r"did you mean 'switch'"):
    configs.load(f'{ZOO}:swich')


# Deviations with which routers start, for width 128 and 4 layers; what is not
# here starts with that of the model's matrices, 0.02.
STARTS = {
  'base': 0.1 * 128**-0.5,  # orthogonal, gain 0.1: released code
  'evo_moe': (128 * 3) ** -0.5,  # PyTorch's linear layer: released code
  'grok_1': 0.0,  # released code
  'shazeer': 0.0,  # appendix A
  'sigma_moe': (2 / 4) ** 0.5 * 128**-0.5,  # released code
  'stable_moe': 0.1 * 128**-0.5,  # released code
  'switch': (0.1 / 128) ** 0.5,  # section 2.4
  'v_moe': 128**-0.5,  # LeCun normal: released code
}


@EACH
def test_a_router_starts_as_published(name):
  scorer = configs.load(f'{ZOO}:{name}').model.moe.scorer
  if name in zoo.OTHERS or not isinstance(scorer, scorers.Linear):
    assert name not in STARTS
    return
  w_DE = scorer.init(jax.random.key(0), 128, 512, 0.02)['w_DE'][...]
  # 65,536 numbers; where there are more experts than features, columns of an
  # orthogonal matrix are orthonormal and not rows.
  want = STARTS.get(name, 0.02)
  if scorer.start == 'orthogonal':
    want *= (128 / 512) ** 0.5
  np.testing.assert_allclose(np.std(w_DE), want, rtol=0.02)


@pytest.mark.parametrize(
  ('name', 'want'),
  [
    # the paper's language models
    ('shazeer', {'importance': 0.1, 'load': 0.1}),
    # configs/vmoe_paper/common.py, added up over layers
    ('v_moe', {'importance': 0.005, 'load': 0.005}),
    # the released code of FuseMoE and of HMoE, with variances over E - 1
    ('laplace', {'importance': 0.01}),
    ('hmoe', {'two_level': 0.01}),
    ('hmoe_laplace', {'two_level': 0.01}),
  ],
)
def test_losses_of_variation_have_the_authors_weight_and_variance(name, want):
  parts = configs.load(f'{ZOO}:{name}').model.moe.balance
  by_name = {table.name_of(balance.BALANCE, part): part for part in parts}
  assert {k: part.coefficient for k, part in by_name.items()} == want
  for part in parts:
    assert part.unbiased == (name not in {'shazeer', 'v_moe'})


def problem(name):
  """The layer of an algorithm, small, with its weights and a batch."""
  run = configs.shrink(configs.load(f'{ZOO}:{name}'))
  config = dataclasses.replace(run.model, width=WIDTH, init_std=0.2)
  make = lambda: config.feed_forward.make(
    block.layer_sizes(config), config.moe, tiny.mesh(), jax.random.key(0)
  )
  graph, state = nnx.split(nnx.eval_shape(make))
  weights = tiny.draw(nnx.to_pure_dict(state), std=0.3)
  x_BLD = np.random.default_rng(0).normal(size=(2, 32, WIDTH))
  return config, graph, weights, x_BLD.astype(np.float32)


# Every feed-forward, kind of experts and dispatcher of the zoo. Gradients of
# routers, scorers and balance losses are tested in tests/contracts,
# tests/moe/scorers and tests/moe/balance; `make test-soak` trains all other
# entries.
LEARNED = {
  'autonomy',
  'gpt_oss',
  'gshard_praxis',
  'hmoe_laplace',
  'peer',
  'sigma_moe',
  'soft_moe',
}
# And what they leave out: every scorer, every kind of heads, every router with
# scores of its own, and states of routers. Other routers and balance parts read
# scores alone, which are float32, and are tested in the folders named above;
# `make test-soak` traces them.
TRACED = LEARNED | {
  'deepseek_v2',
  'deepseek_v4',
  'dense',
  'dselect_k',
  'expert_threshold',
  'hyper_router',
  'libmoe_xmoe',
  'perturbed_cosine',
  'quantile',
  'remoe',
  'shazeer',
  'stable_moe',
  'tc_moe',
  'thor',
  'zaya_1',
}


def each_but_soak(names, quick):
  """Parametrizes with names; those that are not quick are marked `soak`."""
  soak = [pytest.mark.soak]
  return pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=[] if name in quick else soak) for name in names],
  )


def test_the_default_run_has_every_kind_of_part():
  def layer(model):
    moe = model.moe
    return model.feed_forward, moe.experts, moe.dispatcher

  def parts(model):
    router = model.moe.router
    scored = router if router.extra_scorers(model.moe.num_experts) else None
    return *layer(model), model.moe.scorer, model.heads, scored

  for parts_of, quick in ((layer, LEARNED), (parts, TRACED)):
    kinds = {
      name: {*map(type, parts_of(configs.load(f'{ZOO}:{name}').model))}
      for name in zoo.NAMES
    }
    left = set().union(*kinds.values())
    assert left == set().union(*(kinds[name] for name in quick))


@each_but_soak(sorted({*zoo.NAMES} - {'dense'}), LEARNED)
def test_every_algorithm_learns(name):
  """Gradients are finite and reach experts and what they are chosen by, and a
  step against them lowers the loss.
  """
  config, graph, weights, x_BLD = problem(name)
  valid_BL = np.arange(32) < np.array([[32], [20]])
  index_BL = np.arange(64, dtype=np.int32).reshape(2, 32)
  want_BLD = np.roll(x_BLD, 1, axis=2) * valid_BL[..., None]

  def loss(weights):
    module = nnx.merge(graph, nnx.State(jax.tree.map(nnx.Param, weights)))
    tokens = TokenInfo(jnp.asarray(valid_BL), index_BL, index_BL % 50)
    previous = feed_forward.no_previous_layer(config.moe, 2, 32)
    out_BLD, _, record = module(x_BLD, tokens, previous, jax.random.key(1))
    if not config.is_routed:
      return jnp.mean((out_BLD - want_BLD) ** 2), out_BLD
    sums = jax.tree.map(lambda leaf: leaf[None], record.balance)
    extra, _ = balance.total(config.moe.balance, sums)
    return jnp.mean((out_BLD - want_BLD) ** 2) + extra, out_BLD

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (before, out_BLD), gradient = run(weights)
  if config.is_routed and not config.moe.num_shared:
    assert (np.asarray(out_BLD)[~valid_BL] == 0).all()
  for path, leaf in trees.leaves(gradient).items():
    assert np.isfinite(leaf).all(), path
  routed = gradient.get('routed', gradient)
  assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(routed))
  small = 0.01 / np.sqrt(
    sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
  )
  step = jax.tree.map(lambda w, g: w - small * g, weights, gradient)
  (after, _), _ = run(step)
  assert after < before


@each_but_soak(zoo.NAMES, TRACED)
def test_every_algorithm_trains_rematerialised_in_bfloat16_and_decodes(name):
  """Traced, not run: types and shapes through scan, remat and the KV cache."""
  run = configs.shrink(configs.load(f'{ZOO}:{name}'))
  config = dataclasses.replace(run.model, dtype='bfloat16', remat='full')
  model = build.build(config, tiny.mesh())

  def forward(weights):
    token_BL = jnp.ones((2, 16), jnp.int32)
    decoder = model.bind(weights)
    out = decoder(token_BL, token_BL, token_BL, key=jax.random.key(0))
    return jnp.sum(out.x_BLD.astype(jnp.float32)), out

  gradient, out = jax.eval_shape(jax.grad(forward, has_aux=True), model.shapes)
  assert out.x_BLD.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves((gradient, out.record)):
    assert leaf.dtype == jnp.float32

  def step(weights, slots):
    token_BL = jnp.ones((2, 4), jnp.int32)
    return model.bind(weights).step(token_BL, token_BL, token_BL > 0, slots)

  logits_BLV, _ = jax.eval_shape(step, model.shapes, cache.empty(config, 2, 16))
  assert logits_BLV.shape == (2, 4, config.vocab_size)
