"""Seed-OSS: a dense model with biases of queries, keys and values."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Only, Ours
from moejax.convert.rotary import Rotary

SEED_OSS = family.Family(
  model_type='seed_oss',
  architecture='SeedOssForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    family.DENSE_WIDTH,
    Rotary(),
    Key('attention_bias', 'qkv_bias'),
    Key('attention_out_bias', 'out_bias'),
    Only('mlp_bias', False),
    Ours('moe.num_experts', 0),
  ),
  rules=(*family.OUTER, *family.NORMS, *family.GROUPED, *family.DENSE),
  experts={'': ()},
  defaults=family.USUAL
  | {
    'attention_bias': True,
    'attention_out_bias': False,
    'head_dim': 128,
    'hidden_size': 4096,
    'intermediate_size': 27648,
    'max_position_embeddings': 524288,
    'mlp_bias': False,
    'num_attention_heads': 80,
    'num_hidden_layers': 64,
    'num_key_value_heads': 8,
    'vocab_size': 155136,
  },
)
