"""OLMoE (arXiv 2409.02060): queries and keys normalised over all heads."""

from moejax.convert.families import family
from moejax.convert.keys import Derived, Key, Only, Ours
from moejax.convert.rotary import Rotary

OLMOE = family.Family(
  model_type='olmoe',
  architecture='OlmoeForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS_OR_ALL,
    Derived('head_dim', family.square),
    Rotary(),
    Ours('qk_norm', 'width'),
    family.BIASES,
    Only('clip_qkv', None),
    Key('num_experts|num_local_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    family.RENORMALISE,
    *family.aux_loss(0.01),
    # The released model has 0.001 times the mean over its 16 layers. Ours sums
    # over layers, so its coefficient is 0.001 / 16.
    Ours('moe.balance.z_loss.coefficient', 6.25e-5),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *family.NORM_OF_ALL,
    *family.router(),
  ),
  experts={'by expert': family.experts(), 'fused': family.FUSED},
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'clip_qkv': None,
    'hidden_size': 2048,
    'intermediate_size': 2048,
    'max_position_embeddings': 4096,
    'norm_topk_prob': False,
    'num_attention_heads': 16,
    'num_experts': 64,
    'num_experts_per_tok': 8,
    'num_hidden_layers': 16,
    'num_key_value_heads': None,
    'rms_norm_eps': 1e-5,
    'vocab_size': 50304,
  },
)
