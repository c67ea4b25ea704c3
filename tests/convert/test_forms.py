"""What models are written as: classes that exist, types that hold them."""

import dataclasses

import numpy as np
import pytest
from helpers import hf, tiny

from configs import zoo
from moejax import config as configs
from moejax.convert import folder, load, save, tensor_files
from moejax.convert.families import FORMS
from moejax.core import errors, trees
from moejax.moe.routers import ROUTERS
from moejax.run import exporting

TOP_K = ROUTERS['top_k']


@pytest.mark.parametrize('name', FORMS)
def test_what_is_said_to_be_in_transformers_is(name):
  family = FORMS[name]
  assert (family.architecture in hf.CLASSES) == family.in_transformers


def test_a_class_that_does_not_exist_is_not_said_to_load():
  said = exporting.loaded_by(FORMS['deepseek'])
  assert said.startswith('transformers has no DeepseekForCausalLM')
  assert 'transformers loads it as Olmoe' in exporting.loaded_by(FORMS['olmoe'])


def test_the_zoo_is_written_as_classes_that_exist():
  """Or refused with a reason from a family that has experts, too."""
  written, reasons = {}, {}
  for name in zoo.ZOO:
    run = configs.load(f'{zoo.__file__}:{name}', [])
    try:
      plan = save.plan(run.model, load.shapes(run.model))
    except errors.InputError as e:
      written[name] = None
      reasons[name] = str(e)
    else:
      written[name] = plan.family.architecture
      assert written[name] in hf.CLASSES, name
  assert written['dense'] == 'LlamaForCausalLM'
  assert written['olmoe'] == 'Qwen2MoeForCausalLM'
  assert written['expert_choice'] is None
  for reason in reasons.values():
    nearest = reason.partition('the nearest is ')[2].partition(':')[0]
    assert any(FORMS[nearest].experts.values()), reason


@pytest.mark.parametrize(
  ('entry', 'reason'),
  [
    ('switch', 'needs model.moe.router.k, which model.moe.router=switch lacks'),
    ('dselect_k', "has model.moe.router.name='top_k', not 'dselect_k'"),
  ],
)
def test_why_no_family_holds_a_model(entry, reason):
  model = configs.load(f'{zoo.__file__}:{entry}', []).model
  with pytest.raises(errors.InputError, match=reason) as e:
    save.plan(model, load.shapes(model))
  # Fields of another router say no more.
  assert 'router.k=' not in str(e.value)


def written(config, path, **more):
  """The folder of a model with drawn weights, and its logits."""
  model = tiny.model(config)
  weights = tiny.weights(model)
  leaves = {k: np.asarray(x) for k, x in trees.leaves(weights).items()}
  plan = save.plan(config, model.shapes)
  save.write(plan, leaves.get, path, **more)
  token_BL = tiny.batch([[12]]).token_BL
  return plan, hf.logits(model, weights, token_BL), token_BL


@pytest.mark.parametrize(
  'qkv_bias',
  [False, pytest.param(True, marks=pytest.mark.soak)],
  ids=['own', 'upcycled'],
)
def test_no_shared_experts_are_one_of_zeros(qkv_bias, tmp_path):
  """Also where a Qwen2 was upcycled, whose queries have biases."""
  config = tiny.model_config(
    moe={'num_shared': 0, 'router': TOP_K(k=2, renormalise=qkv_bias)},
    qkv_bias=qkv_bias,
    num_layers=2,
    first_dense=0,
  )
  plan, want_BLV, token_BL = written(config, tmp_path / 'out')
  assert plan.family.architecture == 'Qwen2MoeForCausalLM'
  again, model, weights = hf.read(tmp_path / 'out')
  assert again.config.moe.num_shared == 1
  shared = [n for n in again.folder.tensors if '.shared_expert' in n]
  assert len(shared) == 4 * config.num_moe
  assert not any(again.folder.tensors[n].read().any() for n in shared)
  got_BLV = hf.logits(model, weights, token_BL)
  np.testing.assert_allclose(got_BLV, want_BLV, atol=1e-6)


def router_of_v3():
  """Plan and weights of DeepSeek-V3 with the biases that training makes."""
  plan, model, weights = hf.read(hf.GOLDEN / 'deepseek_v3')
  leaves = {k: np.array(x) for k, x in trees.leaves(weights).items()}
  bias = leaves['moe/ffn/router_state/loss_free/selection_bias_E']
  # Steps of 0.001 around 4: bfloat16 has only 2 of the numbers.
  bias[:] = 4 + 0.001 * np.arange(bias.size).reshape(bias.shape)
  router = leaves['moe/ffn/router/w_DE']
  router += 1e-4 * np.random.default_rng(0).normal(size=router.shape)
  return save.plan(plan.config, model.shapes), leaves


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_what_decides_routing_stays_float32(dtype, tmp_path):
  plan, leaves = router_of_v3()
  save.write(plan, leaves.get, tmp_path, dtype=dtype, shard_bytes=20_000)
  found = folder.open_folder(str(tmp_path)).tensors
  kinds = {name: entry.dtype for name, entry in found.items()}
  short = {'bfloat16': 'BF16', 'float16': 'F16'}[dtype]
  for name, kind in kinds.items():
    routes = name.endswith(('.gate.weight', '.e_score_correction_bias'))
    assert kind == ('F32' if routes else short), name
  _, _, weights = hf.read(tmp_path)
  again = trees.leaves(weights)
  bias_path = 'moe/ffn/router_state/loss_free/selection_bias_E'
  for path in (bias_path, 'moe/ffn/router/w_DE'):
    np.testing.assert_array_equal(again[path], leaves[path], err_msg=path)
  # The index and the progress count what is written.
  size = sum(entry.num_bytes for entry in found.values())
  assert plan.num_bytes(dtype) == size
  assert all(p.stat().st_size < 40_000 for p in tmp_path.glob('*.safetensors'))


@pytest.mark.parametrize(
  ('value', 'dtype', 'message'),
  [
    (70000.0, 'float16', 'has 70000, which is beyond what float16 holds'),
    (3.4e38, 'bfloat16', 'has 3.4e+38, which is beyond what bfloat16 holds'),
    (np.nan, 'float32', 'has nan: training has diverged'),
    (-np.inf, 'bfloat16', 'has -inf: training has diverged'),
  ],
)
def test_a_number_that_a_type_does_not_hold_is_named(
  value, dtype, message, tmp_path
):
  plan, model, weights = hf.read(hf.GOLDEN / 'olmoe')
  leaves = {k: np.array(x) for k, x in trees.leaves(weights).items()}
  leaves['moe/ffn/routed/w_out_EFD'][1, 3, 2, 5] = value
  form = save.plan(plan.config, model.shapes)
  name = 'model.layers.1.mlp.experts.3.down_proj.weight'
  with pytest.raises(errors.InputError) as e:
    save.write(form, leaves.get, tmp_path, dtype=dtype, shard_bytes=20_000)
  assert str(e.value).startswith(f'{name} {message}')
  # The same command can be tried again with another type.
  assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_not_read(tmp_path):
  tensors = folder.open_folder(str(hf.GOLDEN / 'olmoe')).tensors
  found = {name: np.array(entry.read()) for name, entry in tensors.items()}
  name = 'model.layers.1.mlp.experts.3.down_proj.weight'
  found[name][5, 2] = np.nan
  specs = {name: (x.dtype, x.shape) for name, x in found.items()}
  tensor_files.write(tmp_path / folder.SINGLE, specs, found.items())
  config = (hf.GOLDEN / 'olmoe' / 'config.json').read_bytes()
  (tmp_path / 'config.json').write_bytes(config)
  with pytest.raises(errors.InputError, match=f'{name} has nan'):
    hf.read(tmp_path)


def test_shared_experts_that_are_not_there_are_no_difference():
  config = tiny.model_config(moe={'num_shared': 0})
  shared = dataclasses.replace(config.moe.shared, gate=True)
  gated = tiny.model_config(moe={'num_shared': 0, 'shared': shared})
  plan = save.plan(gated, load.shapes(gated))
  assert plan.family is save.plan(config, load.shapes(config)).family
