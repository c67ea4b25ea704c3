"""Pruned and merged checkpoints are written, read, and loaded by transformers.

transformers runs in another process: see `test_live`.
"""

import numpy as np
import pytest
from helpers import expert_statistics, hf
from helpers.hf_process import PYTHON, far, is_there

from moejax.compress import even, layer_weights, prune
from moejax.compress.merge import MergeOptions, merge_layer
from moejax.compress.needs import router_needs
from moejax.convert import companions, save
from moejax.core import errors, trees
from moejax.model import build

# The padding id that is the default of some classes is outside the vocabulary.
NO_IDS = dict.fromkeys(companions.SPECIAL_IDS)
# Of each kind of router and of experts one; `make test-hf` has all families.
QUICK = ('deepseek_v3', 'glm4_moe', 'gpt_oss', 'qwen2_moe')
SPARSE = [
  family
  for family in hf.FAMILIES
  if 'experts' in (hf.GOLDEN / family / 'config.json').read_text()
]


def half(config, all_groups=False):
  """A choice of few experts for every layer, another one in each."""
  needs = router_needs(config)
  num, num_groups = config.moe.num_experts, needs.num_groups
  rng = np.random.default_rng(0)
  kept_NGM = np.zeros((config.num_moe, num_groups, num // num_groups), bool)
  least_groups = config.moe.router.expert_needs.least_groups
  if all_groups:
    least_groups = num_groups
  per_group = max(needs.per_group, -(-needs.at_least // least_groups))
  for kept_GM in kept_NGM:
    for group in rng.permutation(num_groups)[:least_groups]:
      members = rng.permutation(kept_GM.shape[1])[: max(per_group, 2)]
      kept_GM[group, members] = True
  return kept_NGM.reshape(config.num_moe, num)


def smaller(family, how):
  """Plan of the folder, and the smaller model with its weights."""
  plan, _, weights = hf.read(hf.GOLDEN / family)
  kept_NE = half(plan.config)
  if how == 'pruned':
    new, config = prune.prune(weights, plan.config, kept_NE)
  else:
    new, config = prune.merge(
      weights, plan.config, merged(plan.config, weights, kept_NE), how
    )
  return plan, build.build(config, hf.one_device()), new


def merged(config, weights, kept_NE):
  """Every layer merged around the experts that a choice keeps."""
  statistics = expert_statistics.random(config.num_moe, config.moe.num_experts)
  read = layer_weights.reader_of(weights)
  axes = layer_weights.expert_axes(config)
  layers = []
  for n, kept_E in enumerate(kept_NE):
    view = layer_weights.layer_view(config, read, n, axes)
    options = MergeOptions(grouping='weights')
    layers.append(merge_layer(statistics, view.named, n, kept_E, options))
  return layers


def write(plan, model, weights, target):
  """Writes the folder; returns the plan."""
  leaves = trees.leaves(weights)
  was = plan.folder.config['model_type']
  written = save.plan(model.config, model.shapes, was=was)
  beside = companions.Companions(NO_IDS, NO_IDS, {})
  save.write(
    written, lambda path: np.asarray(leaves[path]), target, beside=beside
  )
  return written


@pytest.mark.parametrize('family', QUICK)
def test_a_pruned_model_is_written_and_read_to_the_bit(family, tmp_path):
  plan, model, weights = smaller(family, 'pruned')
  assert model.config.moe.num_experts < plan.config.moe.num_experts
  write(plan, model, weights, tmp_path / 'out')
  again, _, found = hf.read(tmp_path / 'out')
  assert again.config.moe.num_experts == model.config.moe.num_experts
  leaves = trees.leaves(weights)
  for path, leaf in trees.leaves(found).items():
    np.testing.assert_array_equal(leaf, leaves[path], err_msg=path)


def uneven(family):
  """Plan of the folder, and a model of different numbers of experts."""
  plan, _, weights = hf.read(hf.GOLDEN / family)
  kept_NE = half(plan.config, all_groups=True)
  kept_NE[0] = True
  new, config = prune.prune(weights, plan.config, kept_NE)
  assert len({*config.moe.experts_by_layer}) == 2
  return plan, config, new


# Biases of the selection, and one of the logits (gpt-oss).
@pytest.mark.parametrize(
  'family',
  [
    'gpt_oss',
    'minimax_m2',
    pytest.param('ernie4_5_moe', marks=pytest.mark.soak),
  ],
)
def test_a_bias_stands_for_the_experts_that_a_layer_does_not_have(
  family, tmp_path
):
  plan, config, weights = uneven(family)
  token_BL = np.load(hf.GOLDEN / family / 'expected.npz')['token_BL']
  own = hf.logits(build.build(config, hf.one_device()), weights, token_BL)
  equal, replace = even.with_biases(config)
  assert equal.moe.experts_by_layer == ()
  weights = trees.map_paths(replace, weights)
  model = build.build(equal, hf.one_device())
  write(plan, model, weights, tmp_path / 'out')
  _, model, weights = hf.read(tmp_path / 'out')
  found = hf.logits(model, weights, token_BL)
  np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)


def test_no_format_without_a_bias_has_layers_of_different_numbers(tmp_path):
  plan, config, weights = uneven('qwen3_moe')
  with pytest.raises(errors.InputError, match='the router has no bias'):
    even.with_biases(config)
  model = build.build(config, hf.one_device())
  with pytest.raises(errors.InputError, match='experts_by_layer'):
    write(plan, model, weights, tmp_path / 'out')


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize('how', ['pruned', 'cut', 'shared'])
@pytest.mark.parametrize('family', SPARSE)
def test_transformers_gives_the_logits_of_a_smaller_model(
  family, how, tmp_path
):
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  plan, model, weights = smaller(family, how)
  written = write(plan, model, weights, tmp_path / 'out')
  token_BL = np.load(hf.GOLDEN / family / 'expected.npz')['token_BL']
  logits_BLV = np.asarray(hf.logits(model, weights, token_BL))
  np.savez(tmp_path / 'own.npz', token_BL=token_BL, logits_BLV=logits_BLV)
  name, off = far(tmp_path / 'out', tmp_path / 'own.npz')
  assert name == written.family.architecture
  assert off < 1e-4
