"""Models without experts, to be made into such with them (convert/upcycle)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Only, Ours, Rotary, Windows

_KEYS = (
  *family.COMMON,
  family.HEAD_DIM,
  family.DENSE_WIDTH,
  Ours('moe.num_experts', 0),
)
_RULES = (*family.OUTER, *family.NORMS, *family.GROUPED, *family.DENSE)
_BIASES = Key('attention_bias', 'qkv_bias', False, also=('out_bias',))

LLAMA = family.Family(
  model_type='llama',
  architecture='LlamaForCausalLM',
  keys=(*_KEYS, family.EPS, Rotary(), _BIASES, Only('mlp_bias', False)),
  rules=_RULES,
  experts={'': ()},
)
MISTRAL = family.Family(
  model_type='mistral',
  architecture='MistralForCausalLM',
  keys=(*_KEYS, family.EPS, Rotary(), Windows(by_layer=False)),
  rules=_RULES,
  experts={'': ()},
)
QWEN2 = family.Family(
  model_type='qwen2',
  architecture='Qwen2ForCausalLM',
  keys=(
    *_KEYS,
    family.EPS,
    Rotary(),
    Ours('qkv_bias', True),
    Only('use_sliding_window', False),
  ),
  rules=_RULES,
  experts={'': ()},
)
QWEN3 = family.Family(
  model_type='qwen3',
  architecture='Qwen3ForCausalLM',
  keys=(
    *_KEYS,
    family.EPS,
    Rotary(),
    _BIASES,
    Ours('qk_norm', 'head'),
    Only('use_sliding_window', False),
  ),
  rules=(*_RULES, *family.NORM_BY_HEAD),
  experts={'': ()},
)
