"""Checkpoints with fewer experts: what stays, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import hf

from moejax.compress import CHOICES, layer_weights, prune
from moejax.compress.merge import MergedLayer
from moejax.compress.needs import router_needs
from moejax.core import errors, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe import balance
from moejax.moe.config import MoEConfig
from moejax.moe.experts import EXPERTS
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS
from moejax.moe.scorers.base import ScorerInput
from moejax.parallel import mesh as meshes

PRUNABLE = [name for name, one in ROUTERS.items() if not one.keeps_experts]


def config_of(**moe):
  """A model of two layers with four experts each."""
  moe = {'num_experts': 4, 'expert_width': 4, 'balance': ()} | moe
  return ModelConfig(
    vocab_size=16,
    num_layers=2,
    width=8,
    num_heads=1,
    head_dim=4,
    moe=MoEConfig(**moe),
  )


def numbered(config):
  """Weights of which each number is another."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  shapes = build.build(config, mesh).shapes
  sizes = iter(range(10**9))
  fill = lambda x: np.array(
    [next(sizes) for _ in range(int(np.prod(x.shape)))], np.float32
  ).reshape(x.shape)
  return jax.tree.map(fill, shapes)


KEPT = np.array([[1, 0, 1, 0], [0, 1, 1, 0]], bool)
CONFIG = config_of(
  scorer=SCORERS['linear'](bias=True),
  balance=(balance.BALANCE['smebu'](),),
  gating_residual=True,
  num_shared=1,
)


def test_removed_experts_take_all_that_is_theirs_with_them():
  weights = numbered(CONFIG)
  new, config = prune.prune(weights, CONFIG, KEPT)
  assert config.moe.num_experts == 2
  assert dataclasses.replace(config.moe, num_experts=4) == CONFIG.moe
  old, new = trees.leaves(weights), trees.leaves(new)
  for n, kept in enumerate(([0, 2], [1, 2])):
    ffn = {p[8:]: x[n] for p, x in old.items() if p.startswith('moe/ffn/')}
    smebu = 'router_state/smebu/'
    before = [0, 2]
    wanted = {
      'routed/w_in_ED2F': ffn.pop('routed/w_in_ED2F')[kept],
      'routed/w_out_EFD': ffn.pop('routed/w_out_EFD')[kept],
      'router/w_DE': ffn.pop('router/w_DE')[:, kept],
      'router/b_E': ffn.pop('router/b_E')[kept],
      smebu + 'selection_bias_E': ffn.pop(smebu + 'selection_bias_E')[kept],
      smebu + 'momentum_E': ffn.pop(smebu + 'momentum_E')[kept],
      'residual': ffn.pop('residual')[before][:, kept],
      **ffn,
    }
    for path, array in wanted.items():
      np.testing.assert_array_equal(new[f'moe/ffn/{path}'][n], array, path)
  for path, array in old.items():
    if not path.startswith('moe/ffn/'):
      np.testing.assert_array_equal(new[path], array, path)


def test_pruning_to_all_experts_gives_the_same_weights_and_config():
  weights = numbered(CONFIG)
  new, config = prune.prune(weights, CONFIG, np.ones((2, 4), bool))
  assert new is weights
  assert config is CONFIG


def test_a_view_reads_one_layer_and_takes_experts_in_any_order():
  weights = numbered(CONFIG)
  leaves = trees.leaves(weights)
  seen = set()

  def read(path, layer):
    seen.add(layer)
    return leaves[path][layer]

  view = layer_weights.layer_view(CONFIG, read, 1)
  assert seen == {1}
  assert set(view.named) == {'w_in_ED2F', 'w_out_EFD', 'w_DE', 'b_E'}
  took = view.take(np.array([3, -1, 0]))
  w_EFD = leaves['moe/ffn/routed/w_out_EFD'][1]
  np.testing.assert_array_equal(
    took.experts['w_out_EFD'], np.stack([w_EFD[3], 0 * w_EFD[0], w_EFD[0]])
  )
  np.testing.assert_array_equal(
    took.router['b_E'], leaves['moe/ffn/router/b_E'][1][[3, 0, 0]] * [1, 0, 1]
  )


@pytest.mark.parametrize('scorer', sorted(SCORERS))
def test_every_scorer_gives_the_others_scores_without_the_removed(scorer):
  kind = {}
  if scorer == 'expert_norm':
    kind = {'experts': EXPERTS['autonomous_swiglu']()}
  config = config_of(scorer=SCORERS[scorer](), **kind)
  shapes = {p: x.shape[1:] for p, x in trees.leaves(numbered(config)).items()}
  rng = np.random.default_rng(0)
  read = lambda path, layer: rng.normal(size=shapes[path]).astype(np.float32)
  view = layer_weights.layer_view(config, read, 0)
  index = np.array([1, 3])

  def scores(view):
    x_TD = jnp.asarray(np.random.default_rng(1).normal(size=(5, 8)))
    inputs = ScorerInput(
      x_TD.astype(jnp.float32),
      jnp.arange(5),
      view.experts,
      jnp.zeros((5, config.moe.scorer.state_width)),
    )
    return layer_weights.with_fixed_sizes(config.moe).scorer(
      view.router, inputs
    )

  np.testing.assert_allclose(
    scores(view.take(index)), scores(view)[:, index], rtol=2e-6
  )


def test_choices_without_computation_stay_and_both_signs_go():
  config = config_of(
    router=ROUTERS['tc_moe'](num_null=2), zero_computation=ZeroComputation()
  )
  weights = numbered(config)
  new, _ = prune.prune(weights, config, KEPT)
  old_NDE = trees.leaves(weights)['moe/ffn/router/w_DE']
  new_NDE = trees.leaves(new)['moe/ffn/router/w_DE']
  np.testing.assert_array_equal(new_NDE[0], old_NDE[0][:, [0, 2, 4, 6, 8, 9]])
  config = config_of(zero_computation=ZeroComputation(zero=1, copy=2))
  weights = numbered(config)
  new, _ = prune.prune(weights, config, KEPT)
  old_NDE = trees.leaves(weights)['moe/ffn/router/w_DE']
  new_NDE = trees.leaves(new)['moe/ffn/router/w_DE']
  np.testing.assert_array_equal(new_NDE[1], old_NDE[1][:, [1, 2, 4, 5, 6]])


def test_multi_token_prediction_is_left_out_of_a_smaller_model():
  config = dataclasses.replace(CONFIG, mtp_layers=1)
  weights = numbered(config)
  new, smaller = prune.prune(weights, config, KEPT)
  assert smaller.mtp_layers == 0
  assert 'mtp' not in new
  assert jax.tree.map(np.shape, new) == jax.tree.map(
    lambda x: x.shape, numbered(smaller)
  )
  # With all experts, nothing is left out.
  assert prune.prune(weights, config, np.ones((2, 4)))[0] is weights


def merged_layers(groups):
  """Merged layers without a mean: 100 times the dominant expert's number."""
  layers = []
  for dominant, index in groups:
    arrays = {
      'w_in_ED2F': np.ones((len(dominant), 8, 2, 4), np.float32),
      'w_out_EFD': np.ones((len(dominant), 4, 8), np.float32),
    }
    for array in arrays.values():
      array *= 100 * np.array(dominant).reshape(-1, *[1] * (array.ndim - 1))
    layers += [MergedLayer(arrays, np.array(index), np.array(dominant))]
  return layers


MERGED = merged_layers([([1, 2], [0, 0, 1, 1]), ([0, 3], [0, 1, 0, 1])])


def test_a_shared_router_keeps_its_logits_and_members_share_weights():
  weights = numbered(CONFIG)
  new, config = prune.merge(weights, CONFIG, MERGED, 'shared')
  assert config is CONFIG
  old, new = trees.leaves(weights), trees.leaves(new)
  w_NEFD = new.pop('moe/ffn/routed/w_out_EFD')
  np.testing.assert_array_equal(w_NEFD[0, :, 0, 0], [100, 100, 200, 200])
  np.testing.assert_array_equal(w_NEFD[1, :, 0, 0], [0, 300, 0, 300])
  new.pop('moe/ffn/routed/w_in_ED2F')
  for path, array in new.items():
    np.testing.assert_array_equal(array, old[path])


def test_a_cut_router_keeps_the_logits_of_dominant_experts():
  weights = numbered(CONFIG)
  new, config = prune.merge(weights, CONFIG, MERGED, 'cut')
  assert config.moe.num_experts == 2
  old, new = trees.leaves(weights), trees.leaves(new)
  w_NEFD = new['moe/ffn/routed/w_out_EFD']
  np.testing.assert_array_equal(w_NEFD[:, :, 0, 0], [[100, 200], [0, 300]])
  path = 'moe/ffn/router/w_DE'
  np.testing.assert_array_equal(new[path][0], old[path][0][:, [1, 2]])
  np.testing.assert_array_equal(new[path][1], old[path][1][:, [0, 3]])


def test_the_product_beside_matrices_is_pruned_and_not_merged():
  config = config_of(low_rank=2)
  weights = numbered(config)
  new, _ = prune.prune(weights, config, KEPT)
  old, new = trees.leaves(weights), trees.leaves(new)
  paths = [path for path in new if '/low_rank/' in path]
  assert paths
  for path in paths:
    np.testing.assert_array_equal(new[path][0], old[path][0][[0, 2]])
  with pytest.raises(errors.InputError, match='model.moe.low_rank=2'):
    prune.merged(config, MERGED, 'shared')
  uneven = config_of(experts_by_layer=(4, 3))
  with pytest.raises(
    errors.InputError, match=r'experts_by_layer=\(4, 3\), but'
  ):
    prune.merged(uneven, MERGED, 'shared')


GROUPS = ROUTERS['group_limited'](
  k=1, num_groups=2, kept_groups=1, group_score='max'
)


@pytest.mark.parametrize(
  ('moe', 'kept', 'line'),
  [
    ({}, [[1, 0, 0, 0]] * 2, 'layer 0 keeps 1 experts, but its router needs 2'),
    ({}, [[1, 1, 0, 0]], 'a choice for 1 x 4 experts.*2 layers of 4'),
    (
      {'router': GROUPS},
      [[1, 1, 1, 0]] * 2,
      "layer 0 keeps 2, 1 experts of the router's 2 groups",
    ),
    (
      {'router': GROUPS},
      [[1, 1, 0, 0], [1, 0, 1, 0]],
      "layers keep 1, 2 groups of the router's 2",
    ),
    (
      {'router': dataclasses.replace(GROUPS, kept_groups=2)},
      [[1, 1, 0, 0]] * 2,
      'layer 0 keeps 1 groups of the router, but it needs 2',
    ),
    (
      {'router': dataclasses.replace(GROUPS, group_score='top2_sum')},
      [[1, 0, 0, 1]] * 2,
      'layer 0 keeps 1 experts in a group.*needs 2 in each',
    ),
  ],
)
def test_a_choice_with_which_the_router_cannot_work_is_one_line(
  moe, kept, line
):
  config = config_of(**moe)
  with pytest.raises(errors.InputError, match=line):
    prune.pruned(config, np.array(kept, bool))


def test_every_router_is_pruned_or_says_why_not():
  for name, router in ROUTERS.items():
    config = config_of(router=router())
    if name in PRUNABLE:
      assert router_needs(config).smallest <= 4
    else:
      with pytest.raises(errors.InputError, match=f'router {name} keeps all'):
        router_needs(config)
  assert {'expert_choice', 'hash', 'thor'}.isdisjoint(PRUNABLE)
  for name, kind in FEED_FORWARDS.items():
    config = dataclasses.replace(config_of(), feed_forward=kind())
    if kind.keeps_experts:
      with pytest.raises(errors.InputError, match=f'{name} keeps all'):
        router_needs(config)


def test_a_group_that_loses_all_its_experts_is_removed():
  config = config_of(router=GROUPS)
  weights = numbered(config)
  kept_NE = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
  new, smaller = prune.prune(weights, config, kept_NE)
  assert smaller.moe.router == dataclasses.replace(GROUPS, num_groups=1)
  path = 'moe/ffn/router/w_DE'
  old_NDE, new_NDE = trees.leaves(weights)[path], trees.leaves(new)[path]
  np.testing.assert_array_equal(new_NDE[0], old_NDE[0][:, :2])
  np.testing.assert_array_equal(new_NDE[1], old_NDE[1][:, 2:])
  with pytest.raises(errors.InputError, match='removed, but not masked'):
    prune.pruned(config, kept_NE, remove=False)


def test_layers_with_fewer_experts_have_empty_places_behind_them():
  weights = numbered(CONFIG)
  kept_NE = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
  new, config = prune.prune(weights, CONFIG, kept_NE)
  assert config.moe.experts_by_layer == (3, 2)
  assert config.moe.num_experts == 3
  old, new = trees.leaves(weights), trees.leaves(new)
  path = 'moe/ffn/routed/w_out_EFD'
  np.testing.assert_array_equal(new[path][0], old[path][0][[0, 2, 3]])
  np.testing.assert_array_equal(new[path][1, :2], old[path][1][[1, 2]])
  np.testing.assert_array_equal(new[path][1, 2], 0)
  # The smaller model is pruned again; its empty places are nothing to keep.
  again, config = prune.prune(
    trees.map_paths(lambda path, _: new[path], numbered(config)),
    config,
    np.array([[0, 1, 1], [1, 1, 1]], bool),
  )
  assert config.moe.experts_by_layer == ()
  again = trees.leaves(again)
  np.testing.assert_array_equal(again[path][0], old[path][0][[2, 3]])
  np.testing.assert_array_equal(again[path][1], old[path][1][[1, 2]])


def test_a_mask_keeps_all_weights_those_in_use_first():
  weights = numbered(CONFIG)
  new, config = prune.prune(weights, CONFIG, KEPT, remove=False)
  assert config.moe.experts_by_layer == (2, 2)
  assert config.moe.num_experts == 4
  old, new = trees.leaves(weights), trees.leaves(new)
  path = 'moe/ffn/router/b_E'
  np.testing.assert_array_equal(new[path][0], old[path][0][[0, 2, 1, 3]])
  np.testing.assert_array_equal(new[path][1], old[path][1][[1, 2, 0, 3]])


@pytest.mark.soak
def test_a_pruned_model_is_the_full_one_with_the_others_masked():
  """In its logits; the full one has a bias against the experts that go."""
  config = config_of(scorer=SCORERS['linear'](bias=True), num_shared=1)
  shapes = build.build(config, hf.one_device()).shapes
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32)
  weights = jax.tree.map(draw, shapes)
  token_BL = rng.integers(0, 16, (2, 12)).astype(np.int32)
  logits = []
  for remove in (True, False):
    new, smaller = prune.prune(weights, config, KEPT, remove=remove)
    model = build.build(smaller, hf.one_device())
    logits.append(np.asarray(hf.logits(model, new, token_BL)))
  model = build.build(config, hf.one_device())
  full = np.asarray(hf.logits(model, weights, token_BL))
  weights['moe']['ffn']['router']['b_E'][~KEPT] = -1e4
  masked = np.asarray(hf.logits(model, weights, token_BL))
  for pruned in logits:
    np.testing.assert_allclose(pruned, masked, rtol=1e-4, atol=1e-5)
  assert np.abs(full - masked).max() > 0.01


def test_groups_need_equally_many_experts_that_fill_a_token():
  needs = router_needs(config_of(router=GROUPS))
  assert (needs.num_groups, needs.per_group, needs.smallest) == (2, 1, 1)
  two = dataclasses.replace(GROUPS, group_score='top2_sum')
  assert router_needs(config_of(router=two)).smallest == 2
  both = dataclasses.replace(GROUPS, kept_groups=2)
  assert router_needs(config_of(router=both)).smallest == 2


@pytest.mark.parametrize('keep', [4, 2, 1])
def test_every_budget_of_a_router_with_groups_gives_a_model(keep):
  """With one of two experts to keep, a group of each layer goes."""
  config = config_of(router=GROUPS)
  needs = router_needs(config).for_budget(keep, 4)
  score_NE = np.array([[1.0, 2, 4, 3], [4, 3, 2, 1]])
  kept_NE = CHOICES['uniform'](score_NE, keep, needs)
  _, smaller = prune.prune(numbered(config), config, kept_NE)
  assert smaller.moe.num_experts == keep
  assert smaller.moe.router.num_groups == (1 if keep == 1 else 2)
