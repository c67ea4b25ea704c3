"""Quantised releases: numbers by hand, and whole checkpoints."""

import dataclasses
import json
import math
import shutil

import ml_dtypes
import numpy as np
import pytest
from helpers import hf, tiny

from moejax.convert import folder, load, quantised, save, tensor_files
from moejax.core import errors, trees
from moejax.model import build

FP8 = ml_dtypes.float8_e4m3fn
# Of the Open Compute Project's table.
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def written(path, tensors):
  """Entries of a file with these arrays."""
  specs = {name: (x.dtype, x.shape) for name, x in tensors.items()}
  tensor_files.write(path, specs, tensors.items())
  return tensor_files.read_header(path)


def by_hand(blocks, scales):
  """[..., N, K] of blocks [..., N, K / 32, 16], number by number."""
  *front, groups, _ = blocks.shape
  found = np.zeros((*front, groups * 32), np.float64)
  for at in np.ndindex(blocks.shape):
    *row, group, pair = at
    for half in (0, 1):
      nibble = int(blocks[at]) >> (4 * half) & 15
      number = E2M1[nibble & 7] * (-1 if nibble & 8 else 1)
      place = group * 32 + 2 * pair + half
      found[*row, place] = number * 2.0 ** (int(scales[*row, group]) - 127)
  return found


def test_numbers_of_four_bits(tmp_path):
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 256, (2, 3, 2, 16)).astype(np.uint8)
  scales = rng.integers(100, 140, (2, 3, 2)).astype(np.uint8)
  blocks[0, 0, 0, 0], scales[0, 0, 0] = 0x2F, 128
  tensors = {'w_blocks': blocks, 'w_scales': scales}
  found = quantised.plain(written(tmp_path / 'a.safetensors', tensors), {})
  assert found.keys() == {'w'}
  w = found['w']
  assert (w.shape, w.num_bytes) == ((2, 64, 3), 2 * 3 * 2 * 17)
  got = w.read()
  assert got[0, :2, 0].tolist() == [-12, 2]
  np.testing.assert_array_equal(
    got.astype(np.float64), by_hand(blocks, scales).swapaxes(1, 2)
  )


@pytest.mark.parametrize('size', [(2, 4), None])
def test_numbers_of_eight_bits(size, tmp_path):
  rng = np.random.default_rng(1)
  numbers = rng.normal(size=(3, 10)).astype(FP8)
  rows, columns = size or (128, 128)
  shape = math.ceil(3 / rows), math.ceil(10 / columns)
  factors = rng.normal(size=shape).astype(np.float32)
  config = size and {'quantization_config': {'weight_block_size': list(size)}}
  tensors = {'w': numbers, 'w_scale_inv': factors}
  entries = written(tmp_path / 'a.safetensors', tensors)
  found = quantised.plain(entries, config or {})
  assert found.keys() == {'w'}
  got = found['w'].read()
  for i, j in np.ndindex(3, 10):
    want = np.float32(numbers[i, j]) * factors[i // rows, j // columns]
    assert got[i, j] == want


# Numbers worked out by hand; 0x38 is 1, 0x40 is 2, 0xb8 is -1, 0x44 is 3.
BYTES = np.array([[0x38, 0x40], [0xB8, 0x44]], np.uint8).view(FP8)
ROWS = np.array([[0.5], [2]], np.float32)


@pytest.mark.parametrize(
  ('name', 'factors', 'want'),
  [
    ('w_scale', np.float32(0.25), [[0.25, 0.5], [-0.25, 0.75]]),
    ('w_scale', np.full((1,), 4, np.float16), [[4, 8], [-4, 12]]),
    ('w_scale_inv', np.full((1, 1), 0.5, np.float32), [[0.5, 1], [-0.5, 1.5]]),
    ('w_scale', ROWS.astype(ml_dtypes.bfloat16), [[0.5, 1], [-2, 6]]),
    ('w_scale', ROWS[:, 0], [[0.5, 1], [-2, 6]]),
    (
      'w_scale_inv',
      np.full((), 130, np.uint8).view(ml_dtypes.float8_e8m0fnu),
      [[8, 16], [-8, 24]],
    ),
  ],
  ids=['number', 'of one', 'transformers', 'rows', 'flat rows', 'powers'],
)
def test_one_factor_for_a_tensor_or_a_row(name, factors, want, tmp_path):
  tensors = {'w': BYTES, name: np.asarray(factors)}
  found = quantised.plain(written(tmp_path / 'a.safetensors', tensors), {})
  assert found.keys() == {'w'}
  assert found['w'].dtype == 'FP8'
  assert found['w'].read().tolist() == want


@pytest.mark.parametrize('shape', [(2,), (2, 1, 1), (2, 2, 1), (2, 1, 2)])
def test_factors_of_stacked_experts(shape, tmp_path):
  """Of an expert, of its rows, and of blocks of 4 rows and 1 column."""
  factors = np.array([2, 4, 8, 16][: math.prod(shape)], np.float32)
  tensors = {
    'w': np.stack([BYTES, BYTES]),
    'w_scale_inv': factors.reshape(shape),
  }
  config = {'quantization_config': {'weight_block_size': [4, 1]}}
  found = quantised.plain(written(tmp_path / 'a.safetensors', tensors), config)
  plain = BYTES.astype(np.float32)
  spread = {1: factors[:, None, None], 3: factors.reshape(shape)}[len(shape)]
  np.testing.assert_array_equal(found['w'].read(), spread * plain)


@pytest.mark.parametrize(
  'tensors',
  [
    {
      'w_blocks': np.zeros((3, 2, 16), np.uint8),
      'w_scales': np.zeros((3, 1), np.uint8),
    },
    {
      'w_blocks': np.zeros((3, 2, 8), np.uint8),
      'w_scales': np.zeros((3, 2), np.uint8),
    },
    {'w': np.zeros((3, 4), FP8), 'w_scale_inv': np.zeros((2, 1), np.float32)},
    {'w': np.zeros((3,), FP8), 'w_scale_inv': np.zeros((1,), np.float32)},
    {'w': np.zeros((2, 3, 4), FP8), 'w_scale': np.zeros((3, 1), np.float32)},
  ],
  ids=['scales', 'blocks', 'factors', 'vector', 'experts'],
)
def test_what_does_not_fit_is_refused(tensors, tmp_path):
  entries = written(tmp_path / 'a.safetensors', tensors)
  with pytest.raises(errors.InputError, match='w is quantised, but its'):
    quantised.plain(entries, {})


@pytest.mark.parametrize(
  ('tensors', 'kind'),
  [
    (
      {
        'w_blocks': np.zeros((3, 2, 16), np.uint8),
        'w_scales': np.zeros((3, 2), np.float32),
      },
      'F32',
    ),
    (
      {
        'w_blocks': np.zeros((3, 2, 16), np.uint8),
        'w_scales': np.zeros((3, 2), np.int8),
      },
      'F4',
    ),
    (
      {'w': np.zeros((3, 4), FP8), 'w_scale_inv': np.zeros((1, 1), np.uint8)},
      'U8',
    ),
    (
      {'w': np.zeros((3, 4), FP8), 'w_scale_inv': np.zeros((1, 1), np.int8)},
      'F4',
    ),
  ],
)
def test_scales_of_other_types_are_refused(tensors, kind, tmp_path):
  """Also of those that the reader of files does not know: I8 stands for one."""
  entries = {
    name: dataclasses.replace(entry, dtype=entry.dtype.replace('I8', 'F4'))
    for name, entry in written(tmp_path / 'a.safetensors', tensors).items()
  }
  with pytest.raises(errors.InputError, match=f'w is .* of {kind}, which'):
    quantised.plain(entries, {})


@pytest.mark.parametrize('size', [128, [128], [0, 128], ['a', 'b'], 'ab'])
def test_a_size_of_blocks_that_is_none_is_refused(size, tmp_path):
  tensors = {'w': np.zeros((3, 4), FP8), 'w_scale_inv': np.zeros((1, 1), FP8)}
  entries = written(tmp_path / 'a.safetensors', tensors)
  config = {'quantization_config': {'weight_block_size': size}}
  with pytest.raises(errors.InputError, match='weight_block_size=.*must be'):
    quantised.plain(entries, config)


def rewrite(path, change):
  """Both forms of a folder's tensors: what it then is, and what it means."""
  tensors = folder.open_folder(str(path)).tensors
  plain, packed = {}, {}
  for name, entry in tensors.items():
    x = np.array(entry.read())
    pieces, meant = change(name, x) or ({name: x}, x)
    packed |= pieces
    plain[name] = np.asarray(meant, np.float32)
  other = path.with_name('quantised')
  shutil.copytree(path, other)
  written(path / folder.SINGLE, plain)
  written(other / folder.SINGLE, packed)
  return other


def assert_same(path, other):
  """Weights, to the bit."""
  _, _, want = hf.read(path)
  _, _, got = hf.read(other)
  want, got = trees.leaves(want), trees.leaves(got)
  for name, leaf in want.items():
    np.testing.assert_array_equal(got[name], leaf, err_msg=name)


def test_gpt_oss_as_it_is_released(tmp_path):
  config = hf.load.plan(folder.open_folder(str(hf.GOLDEN / 'gpt_oss'))).config
  moe = dataclasses.replace(config.moe, expert_width=32, num_experts=4)
  config = dataclasses.replace(config, moe=moe)
  model = tiny.model(config)
  path = tmp_path / 'plain'
  leaves = trees.leaves(tiny.draw(model.shapes))
  save.write(save.plan(config, model.shapes), leaves.get, path)
  rng = np.random.default_rng(2)

  def change(name, x):
    if not name.endswith(('gate_up_proj', 'down_proj')):
      return None
    experts, deep, wide = x.shape
    shape = experts, wide, deep // 32
    blocks = rng.integers(0, 256, (*shape, 16)).astype(np.uint8)
    scales = rng.integers(120, 128, shape).astype(np.uint8)
    pieces = {name + '_blocks': blocks, name + '_scales': scales}
    return pieces, by_hand(blocks, scales).swapaxes(1, 2)

  assert_same(path, rewrite(path, change))


def quantised_v3(tmp_path):
  """A folder of DeepSeek-V3, and the same in blocks of 8 bits."""
  path = tmp_path / 'plain'
  shutil.copytree(hf.GOLDEN / 'deepseek_v3', path)
  settings = {'quant_method': 'fp8', 'weight_block_size': [8, 16]}
  file = path / folder.CONFIG
  config = json.loads(file.read_text()) | {'quantization_config': settings}
  file.write_text(json.dumps(config))
  rng = np.random.default_rng(3)

  def change(name, x):
    if x.ndim != 2 or '_proj' not in name:
      return None
    numbers = x.astype(FP8)
    shape = math.ceil(x.shape[0] / 8), math.ceil(x.shape[1] / 16)
    factors = rng.uniform(0.5, 2, shape).astype(np.float32)
    whole = np.kron(factors, np.ones((8, 16), np.float32))
    whole = whole[: x.shape[0], : x.shape[1]]
    pieces = {name: numbers, name + '_scale_inv': factors}
    return pieces, numbers.astype(np.float32) * whole

  return path, rewrite(path, change)


def test_deepseek_v3_as_it_is_released(tmp_path):
  assert_same(*quantised_v3(tmp_path))


def test_progress_is_of_what_is_stored(tmp_path):
  """A quarter of what it is read as, where it is 8 bits."""
  _, path = quantised_v3(tmp_path)
  plan, done = load.plan(folder.open_folder(str(path))), []
  load.weights(plan, build.build(plan.config, hf.one_device()), done.append)
  stored = sum(plan.folder.tensors[t.name].num_bytes for t in plan.tensors)
  assert sum(done) == stored


def test_what_lies_elsewhere_is_not_computed(tmp_path, monkeypatch):
  """Of 8 experts a host has the first 4."""
  _, path = quantised_v3(tmp_path)
  plan, read = load.plan(folder.open_folder(str(path))), []
  inner = quantised.Scaled8.read
  spy = lambda entry: read.append(entry) or inner(entry)
  monkeypatch.setattr(quantised.Scaled8, 'read', spy)
  found = [t for t in plan.tensors if '.mlp.experts.' in t.name]
  assert {t.index[1] for t in found} == {*range(8)}
  shapes = trees.leaves(load.shapes(plan.config))
  for tensor in found:
    layers, _, *rest = shapes[tensor.path].shape
    region = ((0, layers), (0, 4), *((0, n) for n in rest))
    buffers = {region: np.zeros((layers, 4, *rest), np.float32)}
    load._place(plan.folder.tensors[tensor.name], tensor, buffers)
    assert buffers[region].any() == (tensor.index[1] < 4)
  assert len(read) == len(found) / 2


def whole_tensors(tmp_path, factor, scale, method):
  """OLMoE with 8 bits a number, as `method` writes it, and what that means."""
  path = tmp_path / 'plain'
  shutil.copytree(hf.GOLDEN / 'olmoe', path)
  file = path / folder.CONFIG
  settings = {'quantization_config': method}
  file.write_text(json.dumps(json.loads(file.read_text()) | settings))

  def change(name, x):
    if '_proj' not in name:
      return None
    numbers = (16 * x.astype(np.float32)).astype(FP8)
    base = name.removesuffix('weight')
    static = np.float32(0.7)
    pieces = {name: numbers, base + factor: scale, base + 'input_scale': static}
    if 'k_proj' in name:
      pieces[base + 'k_scale'] = static
    return pieces, numbers.astype(np.float32) * scale.astype(np.float32)

  return path, rewrite(path, change)


@pytest.mark.parametrize(
  ('factor', 'scale', 'method'),
  [
    (
      'weight_scale',
      np.float32(1 / 16),
      {'quant_method': 'modelopt', 'quant_algo': 'FP8'},
    ),
    (
      'weight_scale',
      np.full((1,), 1 / 16, ml_dtypes.bfloat16),
      {'quant_method': 'compressed-tensors', 'format': 'float-quantized'},
    ),
    (
      'weight_scale_inv',
      np.float32(1 / 16),
      {'quant_method': 'fp8', 'weight_block_size': None},
    ),
  ],
  ids=['modelopt', 'compressed-tensors', 'fp8'],
)
def test_a_factor_for_a_tensor(factor, scale, method, tmp_path):
  path, other = whole_tensors(tmp_path, factor, np.asarray(scale), method)
  assert_same(path, other)
  plan = load.plan(folder.open_folder(str(other)))
  # Of activations, which are not quantised here: said, not used.
  assert plan.ignored
  assert all(name.endswith(('put_scale', 'k_scale')) for name in plan.ignored)
  (line,) = load.remarks(plan)
  assert 'input_scale' in line
