"""Qwen1.5-MoE and Qwen2-MoE (model_type qwen2_moe), Qwen3-MoE."""

import dataclasses
from typing import Any

from moejax.convert.families import family
from moejax.convert.keys import Key, KeyMap, Keys, Ours, SharedWidth, want
from moejax.convert.layer_keys import QWEN_LAYERS, Windows, every
from moejax.convert.rotary import Rotary
from moejax.convert.rules import Rule

_KEYS = (
  *family.COMMON,
  family.KV_HEADS,
  family.HEAD_DIM_OR_SQUARE,
  Rotary(),
  QWEN_LAYERS,
  family.DENSE_WIDTH,
  family.EXPERT_WIDTH,
  family.K,
  family.RENORMALISE,
  *family.aux_loss(0.001),
)
_RULES = (
  *family.OUTER,
  *family.NORMS,
  *family.GROUPED,
  *family.DENSE,
  *family.router(),
)
_DEFAULTS = family.USUAL | {
  'decoder_sparse_step': 1,
  'head_dim': None,
  'max_position_embeddings': 32768,
  'mlp_only_layers': None,
  'norm_topk_prob': False,
  'num_hidden_layers': 24,
  'sliding_window': 4096,
  'use_sliding_window': False,
  'vocab_size': 151936,
}
_EXPERTS = {'by expert': family.experts(), 'fused': family.FUSED}

QWEN3_MOE = family.Family(
  model_type='qwen3_moe',
  architecture='Qwen3MoeForCausalLM',
  keys=(
    *_KEYS,
    Ours('qk_norm', 'head'),
    Windows(every, by_layer=False, flag=True),
    family.BIASES,
    Key('num_local_experts|num_experts', 'moe.num_experts'),
  ),
  rules=(*_RULES, *family.NORM_BY_HEAD),
  experts=_EXPERTS,
  defaults=_DEFAULTS
  | {
    'attention_bias': False,
    'hidden_size': 2048,
    'intermediate_size': 6144,
    'moe_intermediate_size': 768,
    'num_attention_heads': 32,
    'num_local_experts': 128,
    'num_experts_per_tok': 8,
    'num_key_value_heads': 4,
  },
)

_SHARED = family.swiglu('mlp.shared_expert.', 'moe/ffn/shared')
_GATE = family.LAYER + 'mlp.shared_expert_gate.weight'

QWEN2_MOE = family.Family(
  model_type='qwen2_moe',
  architecture='Qwen2MoeForCausalLM',
  keys=(
    *_KEYS,
    # Every other one of the first `max_window_layers` layers has a window.
    Windows(
      lambda theirs, i: i % 2 == 0 and i < want(theirs, 'max_window_layers'),
      flag=True,
      first='max_window_layers',
    ),
    Key('qkv_bias', 'qkv_bias'),
    Key('num_experts', 'moe.num_experts'),
    SharedWidth('shared_expert_intermediate_size', 'moe_intermediate_size'),
    Ours('moe.shared.gate', True),
  ),
  rules=(
    *_RULES,
    *_SHARED,
    Rule(_GATE, '1 D', 'moe/ffn/shared/w_gate_D', 'D'),
  ),
  experts=_EXPERTS,
  defaults=_DEFAULTS
  | {
    'hidden_size': 2048,
    'intermediate_size': 5632,
    'layer_types': None,
    'max_window_layers': 28,
    'moe_intermediate_size': 1408,
    'num_attention_heads': 16,
    'num_experts': 60,
    'num_experts_per_tok': 4,
    'num_key_value_heads': 16,
    'qkv_bias': True,
    'shared_expert_intermediate_size': 5632,
  },
)

# Shared experts without a gate, for which transformers has no class otherwise.
# Weights of zero make the gate sigmoid(0) = 1/2, and the output projection is
# doubled, so the function is the same.
QWEN2_MOE_UNGATED = dataclasses.replace(
  QWEN2_MOE,
  keys=(*QWEN2_MOE.keys[:-1], Ours('moe.shared.gate', False)),
  rules=(
    *_RULES,
    *_SHARED[:2],
    dataclasses.replace(_SHARED[2], factor=2.0),
    Rule(_GATE, '1 D', 'moe/norm_ffn/scale_D', 'D', factor=0.0),
  ),
)


@dataclasses.dataclass(frozen=True)
class _NoShared(KeyMap):
  """No shared experts, written as one that is as wide as a routed one."""

  def read(self, theirs: Keys) -> dict[str, Any]:
    del theirs
    return {'moe.num_shared': 0}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {'shared_expert_intermediate_size': ours['moe.expert_width']}


# No shared experts, written as one whose weights, and so outputs, are zero.
# transformers has no class with softmax over all experts, attention without
# norms of queries and keys, and no shared expert.
QWEN2_MOE_UNSHARED = dataclasses.replace(
  QWEN2_MOE,
  keys=(*QWEN2_MOE.keys[:-2], _NoShared()),
  rules=(
    *_RULES,
    *(
      dataclasses.replace(rule, path=path, factor=0.0)
      for rule, path in zip(
        _SHARED, (family.W_IN, family.W_IN, family.W_OUT), strict=True
      )
    ),
    Rule(_GATE, '1 D', 'moe/norm_ffn/scale_D', 'D', factor=0.0),
  ),
)
