"""Tiny checkpoints of transformers give what transformers says they give."""

import numpy as np
import pytest
from helpers import hf

from moejax.convert import folder, load, save
from moejax.core import trees
from moejax.model import build

LIMITS = {
  'logits': 1e-4,
  'loss': 1e-5,
  'gradients': 1e-4,
  'experts': 0,
  'balance loss': 1e-5,
}


# The quick proof, which has every kind of router and of expert: softmax with
# shared experts, softmax renormalised over the chosen, sigmoid in groups with a
# selection bias, and biased experts behind sinks. The other families combine
# the same kinds.
QUICK = ('deepseek_v3', 'gpt_oss', 'mixtral', 'qwen2_moe')
# Of each kind of layer one or more; gradients take three times as long. `make
# test-hf` compares those of all.
DIFFERENTIATED = (
  'deepseek',
  'deepseek_v3',
  'gpt_oss',
  'minimax_m2',
  'mixtral',
  'qwen2_moe',
  'qwen3',
)


def _assert_equal(family, gradients):
  found = hf.compare(hf.GOLDEN / family, gradients)
  assert all(found[name] <= most for name, most in LIMITS.items()), found


@pytest.mark.parametrize('family', QUICK)
def test_logits_experts_and_losses(family):
  _assert_equal(family, gradients=False)


@pytest.mark.soak
@pytest.mark.parametrize('family', hf.FAMILIES)
def test_logits_experts_losses_and_gradients(family):
  _assert_equal(family, gradients=family in DIFFERENTIATED)


# The modules of the two families differ in their attention alone.
def _assert_predicts_equally(family, gradients):
  found = hf.compare_mtp(hf.GOLDEN / family, gradients)
  assert max(found.values()) <= 1e-4, found


def test_multi_token_prediction():
  _assert_predicts_equally('glm4_moe', gradients=False)


@pytest.mark.soak
@pytest.mark.parametrize('family', hf.PREDICT)
def test_gradients_of_multi_token_prediction(family):
  _assert_predicts_equally(family, gradients=True)


# Latent heads; windows and sinks; positions that the length changes.
@pytest.mark.parametrize(
  'family',
  [
    'deepseek_v3',
    pytest.param('gpt_oss', marks=pytest.mark.soak),
    pytest.param('qwen3', marks=pytest.mark.soak),
  ],
)
def test_greedy_texts_with_the_cache(family):
  ours, theirs = hf.greedy(hf.GOLDEN / family)
  assert ours == theirs


@pytest.mark.parametrize('family', hf.FAMILIES)
def test_there_and_back_is_bit_equal(family, tmp_path):
  plan, model, weights = hf.read(hf.GOLDEN / family)
  leaves = trees.leaves(weights)
  target = tmp_path / 'out'
  save.write(
    save.plan(plan.config, model.shapes, family),
    lambda path: np.asarray(leaves[path]),
    target,
    dtype='bfloat16',
    shard_bytes=10_000,
  )
  assert len(list(target.glob('*.safetensors'))) > 1
  again, _, found = hf.read(target)
  assert (again.config, again.layout) == (plan.config, plan.layout)
  for path, leaf in trees.leaves(found).items():
    np.testing.assert_array_equal(leaf, leaves[path], err_msg=path)
  before, after = plan.folder.tensors, again.folder.tensors
  assert before.keys() == after.keys()
  for name, entry in before.items():
    x, y = entry.read(), after[name].read()
    if after[name].dtype != entry.dtype:
      assert after[name].dtype == 'F32'
      x = x.astype(np.float32)
    assert x.tobytes() == y.tobytes(), name


@pytest.mark.parametrize('family', hf.IN_MEMORY)
def test_the_names_that_transformers_holds_in_memory(family):
  _, _, weights = hf.read(hf.GOLDEN / family)
  again, _, found = hf.read(hf.GOLDEN / family / 'memory')
  assert again.layout == 'fused'
  names = [
    n for n in again.folder.tensors if n.endswith('experts.gate_up_proj')
  ]
  assert len(names) == again.config.num_moe
  hf.jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_deepseek_as_a_qwen2_moe_is_the_same_function(tmp_path):
  path = hf.GOLDEN / 'deepseek'
  plan, model, weights = hf.read(path)
  leaves = trees.leaves(weights)
  written = save.plan(plan.config, model.shapes)
  assert written.family.model_type == 'qwen2_moe'
  target = tmp_path / 'out'
  save.write(written, lambda at: np.asarray(leaves[at]), target)
  again = load.plan(folder.open_folder(str(target)))
  assert again.config.moe.shared.gate
  gates = [n for n in again.folder.tensors if n.endswith('expert_gate.weight')]
  assert len(gates) == plan.config.num_moe
  assert not any(again.folder.tensors[n].read().any() for n in gates)
  want = np.load(path / 'expected.npz')
  of = build.build(again.config, model.mesh)
  logits_BLV = hf.logits(of, load.weights(again, of), want['token_BL'])
  far = np.abs(logits_BLV - want['logits_BLV']).max()
  assert far < 1e-4 * want['logits_BLV'].std()


@pytest.mark.parametrize(
  'sizes', [{'fsdp': 2, 'expert': 2, 'model': 2}, {'data': 2, 'expert': 4}]
)
def test_a_mesh_gets_the_same_weights(sizes):
  path = hf.GOLDEN / 'qwen2_moe'
  _, _, whole = hf.read(path)
  mesh = hf.meshes.make(hf.meshes.MeshConfig(**sizes), hf.jax.devices())
  _, model, split = hf.read(path, mesh)
  shardings = trees.leaves(model.shardings)
  whole = trees.leaves(whole)
  for name, leaf in trees.leaves(split).items():
    assert leaf.sharding == shardings[name]
    np.testing.assert_array_equal(leaf, whole[name], err_msg=name)
