"""Llama, Mistral, Ministral, Qwen2 and Qwen3: dense models.

`convert/upcycle.py` can make models with experts of them.
"""

from moejax.convert.families import family
from moejax.convert.keys import Only, Ours
from moejax.convert.layer_keys import ALL_LAYERS, UPPER_LAYERS, Windows, every
from moejax.convert.rotary import Rotary

_KEYS = (
  *family.COMMON,
  family.DENSE_WIDTH,
  Rotary(),
  Ours('moe.num_experts', 0),
)
_RULES = (*family.OUTER, *family.NORMS, *family.GROUPED, *family.DENSE)

LLAMA = family.Family(
  model_type='llama',
  architecture='LlamaForCausalLM',
  keys=(
    *_KEYS,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    family.BIASES,
    Only('mlp_bias', False),
  ),
  rules=_RULES,
  experts={'': ()},
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'max_position_embeddings': 2048,
    'mlp_bias': False,
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': None,
    'vocab_size': 32000,
  },
)
MISTRAL = family.Family(
  model_type='mistral',
  architecture='MistralForCausalLM',
  keys=(*_KEYS, family.KV_HEADS, family.HEAD_DIM_OR_SQUARE, ALL_LAYERS),
  rules=_RULES,
  experts={'': ()},
  defaults=family.USUAL
  | {
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 131072,
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'sliding_window': 4096,
    'vocab_size': 32000,
  },
)
MINISTRAL = family.Family(
  model_type='ministral',
  architecture='MinistralForCausalLM',
  keys=(*_KEYS, family.KV_HEADS, family.HEAD_DIM_OR_SQUARE, Windows(every)),
  rules=_RULES,
  experts={'': ()},
  defaults={**MISTRAL.defaults, 'layer_types': None},
)
_QWEN = family.USUAL | {
  'hidden_size': 4096,
  'intermediate_size': 22016,
  'layer_types': None,
  'max_position_embeddings': 32768,
  'max_window_layers': 28,
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'num_key_value_heads': 32,
  'sliding_window': 4096,
  'use_sliding_window': False,
  'vocab_size': 151936,
}
QWEN2 = family.Family(
  model_type='qwen2',
  architecture='Qwen2ForCausalLM',
  keys=(
    *_KEYS,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    UPPER_LAYERS,
    Ours('qkv_bias', True),
  ),
  rules=_RULES,
  experts={'': ()},
  defaults=_QWEN | {'head_dim': None},
)
QWEN3 = family.Family(
  model_type='qwen3',
  architecture='Qwen3ForCausalLM',
  keys=(
    *_KEYS,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM,
    UPPER_LAYERS,
    family.BIASES,
    Ours('qk_norm', 'head'),
  ),
  rules=(*_RULES, *family.NORM_BY_HEAD),
  experts={'': ()},
  defaults=_QWEN | {'attention_bias': False, 'head_dim': 128},
)
