"""GLM-4.5, 4.6 and 4.7 (model_type glm4_moe) and GLM-4.7-Flash."""

from moejax.convert.families import deepseek, family
from moejax.convert.keys import Key, KeySwitch, Ours
from moejax.convert.layer_keys import BY_TYPE, FIRST_DENSE
from moejax.convert.rotary import Rotary

# From the report of GLM-4.5 (arXiv 2508.06471).
_BALANCE = Ours(
  'moe.balance',
  {'loss_free': {'rate': 0.001}, 'sequence_level': {'alpha': 1e-4}},
)
_RULES = (
  *family.OUTER,
  *family.NORMS,
  *family.DENSE,
  *family.router(float32=True),
  family.selection_bias(),
  *family.swiglu('mlp.shared_experts.', 'moe/ffn/shared'),
  *family.MTP,
)
_EXPERTS = {'by expert': family.experts(), 'fused': family.FUSED}

GLM4_MOE = family.Family(
  model_type='glm4_moe',
  architecture='Glm4MoeForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS,
    family.HEAD_DIM_OR_SQUARE,
    Rotary(partial=True),
    FIRST_DENSE,
    family.DENSE_WIDTH,
    family.EXPERT_WIDTH,
    Key('n_routed_experts|num_local_experts', 'moe.num_experts'),
    Key('n_shared_experts', 'moe.num_shared'),
    family.K,
    family.RENORMALISE,
    *family.GROUPED_ROUTER,
    Key('routed_scaling_factor', 'moe.router.scale'),
    Key('attention_bias', 'qkv_bias'),
    KeySwitch('use_qk_norm', 'qk_norm', 'head', 'none'),
    Key('num_nextn_predict_layers|num_mtp_layers', 'mtp_layers', null=0),
    _BALANCE,
  ),
  rules=(*_RULES, *family.GROUPED, *family.NORM_BY_HEAD),
  experts=_EXPERTS,
  predicts=True,
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'first_k_dense_replace': 1,
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 10944,
    'max_position_embeddings': 131072,
    'moe_intermediate_size': 1408,
    'n_group': 1,
    'n_routed_experts': 128,
    'n_shared_experts': 1,
    'norm_topk_prob': True,
    'num_attention_heads': 96,
    'num_experts_per_tok': 8,
    'num_hidden_layers': 46,
    'num_key_value_heads': 8,
    'num_nextn_predict_layers': 1,
    'partial_rotary_factor': 0.5,
    'rms_norm_eps': 1e-5,
    'routed_scaling_factor': 1.0,
    'topk_group': 1,
    'use_qk_norm': False,
    'vocab_size': 151552,
  },
)

# GLM-4.7-Flash: the attention and the router of DeepSeek-V3, other defaults.
GLM4_MOE_LITE = family.Family(
  model_type='glm4_moe_lite',
  architecture='Glm4MoeLiteForCausalLM',
  keys=(
    *deepseek.LATENT_KEYS,
    family.KV_HEADS,
    BY_TYPE,
    # The configuration class reads `head_dim` as another name of this key.
    Key('qk_rope_head_dim|head_dim', 'heads.rope_dim'),
    Rotary(scores=True, partial=True),
    Key('n_routed_experts|num_local_experts', 'moe.num_experts'),
    Key('rope_interleave', 'rope.interleaved'),
    family.RENORMALISE,
    *family.GROUPED_ROUTER,
    Key('num_nextn_predict_layers', 'mtp_layers'),
    _BALANCE,
  ),
  rules=(*_RULES, *family.LATENT),
  experts=_EXPERTS,
  predicts=True,
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'hidden_size': 2048,
    'intermediate_size': 10240,
    'kv_lora_rank': 512,
    'max_position_embeddings': 202752,
    'mlp_layer_types': None,
    'moe_intermediate_size': 1536,
    'n_group': 1,
    'n_routed_experts': 64,
    'n_shared_experts': 1,
    'norm_topk_prob': True,
    'num_attention_heads': 20,
    'num_experts_per_tok': 4,
    'num_hidden_layers': 47,
    'num_key_value_heads': 20,
    # The value of the release; the class has no such key.
    'num_nextn_predict_layers': 0,
    'q_lora_rank': 768,
    'qk_nope_head_dim': 192,
    'qk_rope_head_dim': 64,
    'rms_norm_eps': 1e-5,
    'rope_interleave': True,
    'routed_scaling_factor': 1.8,
    'topk_group': 1,
    'v_head_dim': 256,
    'vocab_size': 154880,
  },
)
