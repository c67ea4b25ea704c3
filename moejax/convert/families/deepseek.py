"""DeepSeekMoE 16B (model_type deepseek), DeepSeek-V2 and V3."""

import dataclasses

from moejax.convert.families import family
from moejax.convert.keys import (
  DEEPSEEK_LAYERS,
  Derived,
  GroupsOfV2,
  Key,
  Only,
  Ours,
  Rotary,
)

_KEYS = (
  *family.COMMON,
  DEEPSEEK_LAYERS,
  family.DENSE_WIDTH,
  family.EXPERT_WIDTH,
  Key('n_routed_experts', 'moe.num_experts'),
  Key('n_shared_experts', 'moe.num_shared'),
  family.K,
  Only('attention_bias', False),
)
_RULES = (
  *family.OUTER,
  *family.NORMS,
  *family.DENSE,
  *family.swiglu('mlp.shared_experts.', 'moe/ffn/shared'),
)
_EXPERTS = {'by expert': family.experts(), 'fused': family.FUSED}

DEEPSEEK = family.Family(
  model_type='deepseek',
  architecture='DeepseekForCausalLM',
  keys=(
    *_KEYS,
    family.EPS,
    Derived('head_dim', family.square),
    Rotary(),
    Only('scoring_func', 'softmax'),
    family.RENORMALISE,
    Ours('moe.balance', {'sequence_level': {'alpha': 0.001}}),
  ),
  rules=(*_RULES, *family.router(), *family.GROUPED),
  experts=_EXPERTS,
  in_transformers=False,
)

_LATENT = (
  *_KEYS,
  # The norms of latent vectors have this one whatever the config says.
  Only('rms_norm_eps', 1e-6),
  Ours('norm_eps', 1e-6),
  Ours('heads.name', 'latent'),
  Key('kv_lora_rank', 'heads.kv_rank'),
  Key('q_lora_rank', 'heads.q_rank', 0, null=0),
  Key('qk_rope_head_dim', 'heads.rope_dim'),
  Key('qk_nope_head_dim', 'head_dim'),
  Key('v_head_dim', 'heads.value_dim'),
  Rotary(scores=True),
  Key('routed_scaling_factor', 'moe.router.scale', 1.0),
)

DEEPSEEK_V2 = family.Family(
  model_type='deepseek_v2',
  architecture='DeepseekV2ForCausalLM',
  keys=(
    *_LATENT,
    Ours('rope.interleaved', True),
    GroupsOfV2(),
    Only('scoring_func', 'softmax'),
    Only('norm_topk_prob', False),
    Ours('moe.balance', {'sequence_level': {'alpha': 0.003}}),
  ),
  rules=(*_RULES, *family.router(float32=True), *family.LATENT),
  experts=_EXPERTS,
)

DEEPSEEK_V3 = dataclasses.replace(
  DEEPSEEK_V2,
  model_type='deepseek_v3',
  architecture='DeepseekV3ForCausalLM',
  keys=(
    *_LATENT,
    Key('rope_interleave', 'rope.interleaved', True),
    Only('scoring_func', 'sigmoid'),
    Only('topk_method', 'noaux_tc'),
    Key('norm_topk_prob', 'moe.router.renormalise', True),
    Ours('moe.router.name', 'group_limited'),
    Ours('moe.router.score', 'sigmoid'),
    Ours('moe.router.group_score', 'top2_sum'),
    Key('num_nextn_predict_layers|num_mtp_layers', 'mtp_layers', 0),
    Key('n_group', 'moe.router.num_groups', 1),
    Key('topk_group', 'moe.router.kept_groups', 1),
    Ours(
      'moe.balance',
      {'loss_free': {'rate': 0.001}, 'sequence_level': {'alpha': 1e-4}},
    ),
  ),
  rules=(
    *DEEPSEEK_V2.rules,
    *family.MTP,
    family.selection_bias(),
  ),
  predicts=True,
)
