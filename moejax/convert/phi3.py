"""Phi-3 (arXiv 2404.14219) read as a Mistral, which computes the same.

Its files hold the matrices of queries, keys and values in one tensor, and those
of gate and up:

  self_attn.qkv_proj.weight  [(H + 2 G) K, D]   rows of q, of k, of v
  mlp.gate_up_proj.weight    [2 F, D]           rows of gate, of up
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from moejax.convert.folder import Folder
from moejax.convert.quantised import ReadableTensor
from moejax.convert.tensor_files import StoredRows, StoredTensor
from moejax.core import errors

KIND, SAME = 'phi3', 'mistral'
# What config.json leaves out, as in the configuration class of transformers.
_DEFAULTS: dict[str, Any] = {
  'hidden_size': 3072,
  'intermediate_size': 8192,
  'max_position_embeddings': 4096,
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'original_max_position_embeddings': 4096,
  'rms_norm_eps': 1e-5,
  'vocab_size': 32064,
}
# Earlier names of the scaling of its rotary positions.
_LONGROPE = ('su', 'yarn')
_ROTARY = ('rope_parameters', 'rope_scaling')
_JOINT = re.compile(r'(.*\.)(qkv|gate_up)_proj\.weight')


def as_mistral(folder: Folder) -> Folder:
  """The folder with the config and the names of a Mistral.

  Raises:
    InputError: only a share of the features has rotary positions, as in
      Phi-4-mini.
  """
  config = _DEFAULTS | {k: v for k, v in folder.config.items() if v is not None}
  shares = [config, *(config[key] for key in _ROTARY if key in config)]
  for keys in shares:
    share = keys.get('partial_rotary_factor', 1)
    if share != 1:
      raise errors.InputError(
        f'config.json has partial_rotary_factor={share}, but moejax has '
        f'model_type {KIND} with 1 alone'
      )
  for name in _ROTARY:
    keys = dict(config.get(name) or {})
    for key in ('type', 'rope_type'):
      if keys.get(key) in _LONGROPE:
        keys[key] = 'longrope'
    if keys:
      config[name] = keys
  config['model_type'] = SAME
  config.setdefault('num_key_value_heads', config['num_attention_heads'])
  config.setdefault('sliding_window', None)
  return dataclasses.replace(
    folder, config=config, tensors=_split(folder.tensors, config)
  )


def _split(
  tensors: Mapping[str, ReadableTensor], config: Mapping[str, Any]
) -> dict[str, ReadableTensor]:
  """The tensors, with joint ones in parts."""
  heads, groups = config['num_attention_heads'], config['num_key_value_heads']
  shares = {
    'qkv': {'q_proj': heads, 'k_proj': groups, 'v_proj': groups},
    'gate_up': {'gate_proj': 1, 'up_proj': 1},
  }
  found: dict[str, ReadableTensor] = {}
  for name, entry in tensors.items():
    match = _JOINT.fullmatch(name)
    if match is None or not isinstance(entry, StoredTensor):
      found[name] = entry
      continue
    own = shares[match[2]]
    total, done = sum(own.values()), 0
    rows = entry.shape[0] if entry.shape else 0
    for part, share in own.items():
      start, done = rows * done // total, done + share
      stop = rows * done // total
      found[f'{match[1]}{part}.weight'] = StoredRows(entry, start, stop)
  return found
