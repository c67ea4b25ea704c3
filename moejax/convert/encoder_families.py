"""ENCODERS: the families of vision encoders that can be read, by model_type.

Tensors have the names of transformers without a prefix: files differ in it (see
`encoders`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moejax.convert.keys import Key, KeyMap, Keys, KeySwitch, Only, Ours, want
from moejax.convert.rules import Rule
from moejax.core import table

# Our activations by the names of transformers. Of two names for one function
# the first is written.
ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'quick_gelu': 'quick_gelu',
}


@dataclasses.dataclass(frozen=True)
class _Activation(KeyMap):
  """The activation, by its name."""

  names = ('hidden_act',)

  def read(self, theirs: Keys) -> dict[str, Any]:
    name = want(theirs, 'hidden_act')
    kind = 'hidden_act of config.json'
    return {'activation': table.lookup(kind, ACTIVATIONS, name)}

  def write(self, ours: Keys) -> dict[str, Any]:
    names = [n for n, own in ACTIVATIONS.items() if own == ours['activation']]
    return {'hidden_act': names[0]}


@dataclasses.dataclass(frozen=True)
class EncoderFamily:
  """A kind of vision encoder: its config keys and its tensors.

  Attributes:
    model_type: value of `model_type` in its config.json.
    architecture: the class with which transformers loads it.
    keys: maps between keys of config.json and of `VisionConfig`.
    rules: rules of its tensors.
    defaults: the defaults of its configuration class in transformers.
  """

  model_type: str
  architecture: str
  keys: tuple[KeyMap, ...]
  rules: tuple[Rule, ...]
  defaults: Mapping[str, Any]


_KEYS = (
  Key('hidden_size', 'width'),
  Key('intermediate_size', 'hidden_width'),
  Key('num_hidden_layers', 'num_layers'),
  Key('num_attention_heads', 'num_heads'),
  Key('image_size', 'image_size'),
  Key('patch_size', 'patch_size'),
  Key('layer_norm_eps', 'norm_eps'),
  Only('num_channels', 3),
  _Activation(),
)
_DEFAULTS = {
  'hidden_size': 768,
  'intermediate_size': 3072,
  'num_hidden_layers': 12,
  'num_attention_heads': 12,
  'num_channels': 3,
  'image_size': 224,
}


def _norm(theirs: str, path: str) -> tuple[Rule, ...]:
  """A LayerNorm."""
  return (
    Rule(f'{theirs}.weight', 'D', f'{path}/scale_D', 'D'),
    Rule(f'{theirs}.bias', 'D', f'{path}/bias_D', 'D'),
  )


def _ffn(theirs: str, path: str) -> tuple[Rule, ...]:
  """A feed-forward."""
  return (
    Rule(f'{theirs}.fc1.weight', 'F D', f'{path}/w_in_DF', 'D F'),
    Rule(f'{theirs}.fc1.bias', 'F', f'{path}/b_in_F', 'F'),
    Rule(f'{theirs}.fc2.weight', 'D F', f'{path}/w_out_FD', 'F D'),
    Rule(f'{theirs}.fc2.bias', 'D', f'{path}/b_out_D', 'D'),
  )


def _projections(theirs: str, path: str) -> tuple[Rule, ...]:
  """The matrices and biases of queries, keys and values."""
  rules = []
  for name in 'qkv':
    front, own = f'{theirs}.{name}_proj.', f'{path}/'
    rules += [
      Rule(front + 'weight', '(H K) D', own + f'w_{name}_DHK', 'D H K'),
      Rule(front + 'bias', '(H K)', own + f'b_{name}_HK', 'H K'),
    ]
  return tuple(rules)


def _output(theirs: str, path: str) -> tuple[Rule, ...]:
  """The matrix and bias behind the heads."""
  front = f'{theirs}.out_proj.'
  return (
    Rule(front + 'weight', 'D (H K)', f'{path}/w_o_HKD', 'H K D'),
    Rule(front + 'bias', 'D', f'{path}/b_o_D', 'D'),
  )


_LAYER = 'encoder.layers.{layer}.'
# Name of a tensor that every encoder has, and that shows the prefix of all.
PATCHES = 'embeddings.patch_embedding.weight'
_COMMON = (
  Rule(PATCHES, 'D C P Q', 'w_PQCD', 'P Q C D'),
  Rule('embeddings.position_embedding.weight', 'N D', 'position_ND', 'N D'),
  *_norm(_LAYER + 'layer_norm1', 'layers/norm_attention'),
  *_projections(_LAYER + 'self_attn', 'layers/attention'),
  *_output(_LAYER + 'self_attn', 'layers/attention'),
  *_norm(_LAYER + 'layer_norm2', 'layers/norm_ffn'),
  *_ffn(_LAYER + 'mlp', 'layers/ffn'),
  *_norm('post_layernorm', 'norm'),
)

# CLIP (arXiv 2103.00020). The missing letter is in the names of transformers.
_CLIP = EncoderFamily(
  model_type='clip_vision_model',
  architecture='CLIPVisionModel',
  keys=(
    *_KEYS,
    Ours('patch_bias', False),
    Ours('class_token', True),
    Ours('norm_first', True),
    Ours('pooling', 'class'),
  ),
  rules=(
    *_COMMON,
    Rule('embeddings.class_embedding', 'D', 'class_D', 'D'),
    *_norm('pre_layrnorm', 'norm_first'),
  ),
  defaults=_DEFAULTS
  | {'patch_size': 32, 'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5},
)

# SigLIP (arXiv 2303.15343), and SigLIP 2 (arXiv 2502.14786) of fixed size.
_SIGLIP = EncoderFamily(
  model_type='siglip_vision_model',
  architecture='SiglipVisionModel',
  keys=(
    *_KEYS,
    Ours('patch_bias', True),
    Ours('class_token', False),
    Ours('norm_first', False),
    KeySwitch('vision_use_head', 'pooling', on='attention', off='none'),
  ),
  rules=(
    *_COMMON,
    Rule('embeddings.patch_embedding.bias', 'D', 'b_D', 'D'),
    Rule('head.probe', '1 1 D', 'pooling/query_D', 'D'),
    Rule(
      'head.attention.in_proj_weight',
      '(T H K) D',
      'pooling/w_D3HK',
      'D T H K',
    ),
    Rule('head.attention.in_proj_bias', '(T H K)', 'pooling/b_3HK', 'T H K'),
    *_output('head.attention', 'pooling'),
    *_norm('head.layernorm', 'pooling/norm'),
    *_ffn('head.mlp', 'pooling/ffn'),
  ),
  defaults=_DEFAULTS
  | {
    'patch_size': 16,
    'hidden_act': 'gelu_pytorch_tanh',
    'layer_norm_eps': 1e-6,
    'vision_use_head': True,
  },
)

ENCODERS = {family.model_type: family for family in (_CLIP, _SIGLIP)}
