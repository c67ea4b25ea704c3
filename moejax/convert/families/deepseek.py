"""DeepSeekMoE 16B (model_type deepseek), DeepSeek-V2 and V3."""

import dataclasses

from moejax.convert.families import family
from moejax.convert.keys import Derived, GroupsOfV2, Key, Only, Ours
from moejax.convert.layer_keys import DEEPSEEK_LAYERS
from moejax.convert.rotary import Rotary

_KEYS = (
  *family.COMMON,
  family.DENSE_WIDTH,
  family.EXPERT_WIDTH,
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
    family.KV_HEADS_OR_ALL,
    DEEPSEEK_LAYERS,
    Key('n_routed_experts', 'moe.num_experts'),
    Derived('head_dim', family.square),
    Rotary(),
    Only('scoring_func', 'softmax'),
    family.RENORMALISE,
    Ours('moe.balance', {'sequence_level': {'alpha': 0.001}}),
  ),
  rules=(*_RULES, *family.router(), *family.GROUPED),
  experts=_EXPERTS,
  in_transformers=False,
  # transformers has no class for it, so these are the defaults of the release's
  # own code. The sizes of a model have no default and must be given.
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'first_k_dense_replace': 0,
    'max_position_embeddings': 2048,
    'moe_layer_freq': 1,
    'norm_topk_prob': False,
    'num_key_value_heads': None,
    'scoring_func': 'softmax',
  },
)

# Keys of latent attention (MLA), and of routed experts beside shared ones.
LATENT_KEYS = (
  *_KEYS,
  Ours('heads.name', 'latent'),
  # The norms of latent vectors use this epsilon, whatever `rms_norm_eps` is.
  Ours('heads.norm_eps', 1e-6),
  Key('kv_lora_rank', 'heads.kv_rank'),
  Key('q_lora_rank', 'heads.q_rank', null=0, write_null=True),
  Key('qk_nope_head_dim', 'head_dim'),
  Key('v_head_dim', 'heads.value_dim'),
  Key('routed_scaling_factor', 'moe.router.scale'),
)

_LATENT_DEFAULTS = family.USUAL | {
  'attention_bias': False,
  'kv_lora_rank': 512,
  'moe_layer_freq': 1,
  'q_lora_rank': 1536,
  'qk_nope_head_dim': 128,
  'qk_rope_head_dim': 64,
  'v_head_dim': 128,
}

DEEPSEEK_V2 = family.Family(
  model_type='deepseek_v2',
  architecture='DeepseekV2ForCausalLM',
  keys=(
    *LATENT_KEYS,
    family.KV_HEADS_OR_ALL,
    DEEPSEEK_LAYERS,
    Key('qk_rope_head_dim', 'heads.rope_dim'),
    Rotary(scores=True),
    Key('n_routed_experts|num_experts', 'moe.num_experts'),
    Ours('rope.interleaved', True),
    GroupsOfV2(),
    Only('scoring_func', 'softmax'),
    Only('norm_topk_prob', False, null=True),
    Only('mlp_bias', False),
    Ours('moe.balance', {'sequence_level': {'alpha': 0.003}}),
  ),
  rules=(*_RULES, *family.router(float32=True), *family.LATENT),
  experts=_EXPERTS,
  defaults=_LATENT_DEFAULTS
  | {
    'first_k_dense_replace': 0,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'max_position_embeddings': 2048,
    'mlp_bias': False,
    'moe_intermediate_size': 1407,
    'n_group': None,
    'n_routed_experts': 64,
    'n_shared_experts': 2,
    'norm_topk_prob': False,
    'num_attention_heads': 32,
    'num_experts_per_tok': None,
    'num_hidden_layers': 32,
    'num_key_value_heads': None,
    'routed_scaling_factor': 1.0,
    'scoring_func': 'softmax',
    'topk_group': None,
    'topk_method': 'greedy',
    'vocab_size': 102400,
  },
)

DEEPSEEK_V3 = dataclasses.replace(
  DEEPSEEK_V2,
  model_type='deepseek_v3',
  architecture='DeepseekV3ForCausalLM',
  keys=(
    *LATENT_KEYS,
    family.KV_HEADS_OR_ALL,
    DEEPSEEK_LAYERS,
    Key('qk_rope_head_dim', 'heads.rope_dim'),
    Rotary(scores=True),
    Key('n_routed_experts|num_local_experts', 'moe.num_experts'),
    Key('rope_interleave', 'rope.interleaved', null=False),
    Only('scoring_func', 'sigmoid'),
    Only('topk_method', 'noaux_tc'),
    Key('norm_topk_prob', 'moe.router.renormalise', null=False),
    *family.GROUPED_ROUTER,
    Key('num_nextn_predict_layers|num_mtp_layers', 'mtp_layers', null=0),
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
  defaults=_LATENT_DEFAULTS
  | {
    'first_k_dense_replace': 3,
    'hidden_size': 7168,
    'intermediate_size': 18432,
    'max_position_embeddings': 4096,
    'moe_intermediate_size': 2048,
    'n_group': 8,
    'n_routed_experts': 256,
    'n_shared_experts': 1,
    'norm_topk_prob': True,
    'num_attention_heads': 128,
    'num_experts_per_tok': 8,
    'num_hidden_layers': 61,
    'num_key_value_heads': 128,
    'num_nextn_predict_layers': 1,
    'rope_interleave': True,
    'routed_scaling_factor': 2.5,
    'scoring_func': 'sigmoid',
    'topk_group': 4,
    'topk_method': 'noaux_tc',
    'vocab_size': 129280,
  },
)
