"""Kinds of quantised tensors that moejax does not read are named."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from helpers import hf

from moejax.convert import folder, load, quantised, tensor_files
from moejax.core import errors

FP8 = ml_dtypes.float8_e4m3fn


def written(path, tensors):
  """Entries of a file with these arrays."""
  specs = {name: (x.dtype, x.shape) for name, x in tensors.items()}
  tensor_files.write(path, specs, tensors.items())
  return tensor_files.read_header(path)


def int32(*shape):
  return np.zeros(shape, np.int32)


# What each kind puts in the place of a matrix [32, 32] of 4 bits or so.
UNREAD = {
  'gptq': (
    {'quant_method': 'gptq', 'bits': 4},
    {'qweight': int32(4, 32), 'qzeros': int32(1, 4), 'g_idx': int32(32)},
    "quant_method='gptq', bits=4",
  ),
  'awq': (
    {'quant_method': 'awq', 'bits': 4},
    {'qweight': int32(32, 4), 'qzeros': int32(1, 4)},
    "quant_method='awq', bits=4",
  ),
  'bitsandbytes': (
    {'quant_method': 'bitsandbytes', 'load_in_4bit': True},
    {
      'weight': np.zeros((512, 1), np.uint8),
      'weight.absmax': np.zeros(16, np.float32),
      'weight.quant_state.bitsandbytes__nf4': np.zeros(9, np.uint8),
    },
    "quant_method='bitsandbytes'",
  ),
  'bitsandbytes of 8 bits': (
    {'quant_method': 'bitsandbytes', 'load_in_8bit': True},
    {'weight': np.zeros((32, 32), np.int8), 'SCB': np.zeros(32, np.float32)},
    "quant_method='bitsandbytes'",
  ),
  'compressed-tensors': (
    {'quant_method': 'compressed-tensors', 'format': 'pack-quantized'},
    {'weight_packed': int32(32, 4), 'weight_shape': np.zeros(2, np.int64)},
    "quant_method='compressed-tensors', format='pack-quantized'",
  ),
  'modelopt': (
    {'quant_method': 'modelopt', 'quant_algo': 'NVFP4'},
    {
      'weight': np.zeros((32, 16), np.uint8),
      'weight_scale': np.zeros((32, 2), FP8),
      'weight_scale_2': np.float32(1),
    },
    "quant_method='modelopt', quant_algo='NVFP4'",
  ),
  'mxfp8': (
    {'quant_method': 'mxfp8'},
    {
      'weight': np.zeros((32, 32), FP8),
      'weight_scale': np.zeros((32, 1), np.uint8),
    },
    "quant_method='mxfp8'",
  ),
  'blocks of another size': (
    {'quant_method': 'compressed-tensors', 'format': 'float-quantized'},
    {
      'weight': np.zeros((32, 32), FP8),
      'weight_scale': np.zeros((4, 4), np.float32),
    },
    "quant_method='compressed-tensors', format='float-quantized'",
  ),
  'torchao': (
    {'quant_method': 'torchao'},
    {'weight_qdata': np.zeros((32, 32), np.int8)},
    "quant_method='torchao'",
  ),
  'of no name': (
    None,
    {'qweight': int32(4, 32), 'qzeros': int32(1, 4)},
    'is quantised in a way that',
  ),
}


@pytest.mark.parametrize('kind', UNREAD)
def test_other_kinds_are_refused_by_their_name(kind, tmp_path):
  settings, pieces, message = UNREAD[kind]
  path = tmp_path / kind
  shutil.copytree(hf.GOLDEN / 'olmoe', path)
  file = path / folder.CONFIG
  config = json.loads(file.read_text()) | {'quantization_config': settings}
  file.write_text(json.dumps(config))
  tensors = folder.open_folder(str(path)).tensors
  found = {name: np.array(entry.read()) for name, entry in tensors.items()}
  base = 'model.layers.0.self_attn.o_proj.'
  del found[base + 'weight']
  found |= {base + name: np.asarray(x) for name, x in pieces.items()}
  written(path / folder.SINGLE, found)
  with pytest.raises(errors.InputError) as e:
    load.plan(folder.open_folder(str(path)))
  text = str(e.value)
  assert message in text
  assert 'take the release that is not quantised' in text
  assert 'fetch' not in text
  assert 'config.json' not in text
  assert len(text) < 500


def test_modelopt_says_it_in_a_file_of_its_own(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "olmoe"}')
  text = json.dumps({'quantization': {'quant_algo': 'NVFP4'}})
  (tmp_path / 'hf_quant_config.json').write_text(text)
  written(tmp_path / folder.SINGLE, {'w': np.ones(1, np.float32)})
  found = folder.open_folder(str(tmp_path))
  want = " (quant_method='modelopt', quant_algo='NVFP4')"
  assert quantised.by(found.config) == want


def test_settings_alone_quantise_nothing(tmp_path):
  """A folder that was dequantised, and whose config.json says otherwise."""
  path = tmp_path / 'olmoe'
  shutil.copytree(hf.GOLDEN / 'olmoe', path)
  file = path / folder.CONFIG
  settings = {'quantization_config': {'quant_method': 'gptq', 'bits': 4}}
  file.write_text(json.dumps(json.loads(file.read_text()) | settings))
  assert not load.plan(folder.open_folder(str(path))).ignored
