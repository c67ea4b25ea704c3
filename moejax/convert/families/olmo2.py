"""OLMo 2 (arXiv 2501.00656) and FlexOlmo (arXiv 2507.07024).

They normalise the outputs of attention and feed-forward, not their inputs.
"""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours
from moejax.convert.rotary import Rotary
from moejax.convert.rules import Rule

_KEYS = (
  *family.COMMON,
  family.KV_HEADS_OR_ALL,
  family.HEAD_DIM_OR_SQUARE,
  Rotary(),
  family.BIASES,
  Ours('qk_norm', 'width'),
  Ours('norm_after', True),
)
_RULES = (
  *family.OUTER,
  Rule(
    family.LAYER + 'post_attention_layernorm.weight',
    'D',
    '{stack}/norm_attention/scale_D',
    'D',
  ),
  Rule(
    family.LAYER + 'post_feedforward_layernorm.weight',
    'D',
    '{stack}/norm_ffn/scale_D',
    'D',
  ),
  *family.GROUPED,
  *family.NORM_OF_ALL,
)
_DEFAULTS = family.USUAL | {
  'attention_bias': False,
  'head_dim': None,
  'hidden_size': 4096,
  'intermediate_size': 11008,
  'num_attention_heads': 32,
  'num_hidden_layers': 32,
  'num_key_value_heads': None,
}

OLMO2 = family.Family(
  model_type='olmo2',
  architecture='Olmo2ForCausalLM',
  keys=(*_KEYS, family.DENSE_WIDTH, Ours('moe.num_experts', 0)),
  rules=(*_RULES, *family.DENSE),
  experts={'': ()},
  defaults=_DEFAULTS
  | {
    'max_position_embeddings': 2048,
    'rms_norm_eps': 1e-5,
    'vocab_size': 50304,
  },
)
FLEX_OLMO = family.Family(
  model_type='flex_olmo',
  architecture='FlexOlmoForCausalLM',
  keys=(
    *_KEYS,
    Key('num_experts|num_local_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    family.RENORMALISE,
    *family.aux_loss(0.01),
  ),
  rules=(*_RULES, *family.router()),
  experts={'by expert': family.experts(), 'fused': family.FUSED},
  defaults=_DEFAULTS
  | {
    'max_position_embeddings': 4096,
    'norm_topk_prob': False,
    'num_experts': 7,
    'num_experts_per_tok': 5,
    'rope_theta': 500_000.0,
    'vocab_size': 100352,
  },
)
