"""Qwen1.5-MoE and Qwen2-MoE (model_type qwen2_moe), Qwen3-MoE."""

import dataclasses
from typing import Any

from moejax.convert.families import family
from moejax.convert.keys import (
  QWEN_LAYERS,
  Key,
  Keys,
  Only,
  Ours,
  Rotary,
  SharedWidth,
)
from moejax.convert.rules import Rule

_KEYS = (
  *family.COMMON,
  family.EPS,
  family.HEAD_DIM,
  Rotary(),
  QWEN_LAYERS,
  family.DENSE_WIDTH,
  family.EXPERT_WIDTH,
  family.K,
  family.RENORMALISE,
  Only('use_sliding_window', False),
  *family.aux_loss(0.001),
)
_RULES = (
  *family.OUTER,
  *family.NORMS,
  *family.GROUPED,
  *family.DENSE,
  *family.router(),
)
_EXPERTS = {'by expert': family.experts(), 'fused': family.FUSED}

QWEN3_MOE = family.Family(
  model_type='qwen3_moe',
  architecture='Qwen3MoeForCausalLM',
  keys=(
    *_KEYS,
    Ours('qk_norm', 'head'),
    Key('attention_bias', 'qkv_bias', False, also=('out_bias',)),
    Key('num_experts|num_local_experts', 'moe.num_experts'),
  ),
  rules=(*_RULES, *family.NORM_BY_HEAD),
  experts=_EXPERTS,
)

_SHARED = family.swiglu('mlp.shared_expert.', 'moe/ffn/shared')
_GATE = family.LAYER + 'mlp.shared_expert_gate.weight'

QWEN2_MOE = family.Family(
  model_type='qwen2_moe',
  architecture='Qwen2MoeForCausalLM',
  keys=(
    *_KEYS,
    Key('qkv_bias', 'qkv_bias', True),
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
)

# Shared experts without a gate, behind one that is sigmoid(0) = 1/2 and with
# twice the output: the same function, in a class that transformers has.
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
class _NoShared:
  """No shared experts, written as one that is as wide as a routed one."""

  def read(self, theirs: Keys) -> dict[str, Any]:
    del theirs
    return {'moe.num_shared': 0}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {'shared_expert_intermediate_size': ours['moe.expert_width']}


# No shared experts, written as one of zeros, whose output is zero: of the
# classes of transformers none has softmax over all experts, attention without
# norms of queries and keys, and no shared expert.
QWEN2_MOE_UNSHARED = dataclasses.replace(
  QWEN2_MOE,
  keys=(
    *_KEYS,
    Key('qkv_bias', 'qkv_bias', True),
    Key('num_experts', 'moe.num_experts'),
    _NoShared(),
  ),
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
