"""dots.llm1 (model_type dots1, arXiv 2506.05767)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours
from moejax.convert.layer_keys import FIRST_DENSE, Windows, upper
from moejax.convert.rotary import Rotary

DOTS1 = family.Family(
  model_type='dots1',
  architecture='Dots1ForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS_OR_ALL,
    family.HEAD_DIM_OR_SQUARE,
    Rotary(),
    FIRST_DENSE,
    Windows(upper, first='max_window_layers'),
    family.DENSE_WIDTH,
    family.EXPERT_WIDTH,
    Key('n_routed_experts|num_local_experts', 'moe.num_experts'),
    Key('n_shared_experts', 'moe.num_shared'),
    family.K,
    Key('norm_topk_prob', 'moe.router.renormalise', null=False),
    *family.GROUPED_ROUTER,
    Key('routed_scaling_factor', 'moe.router.scale'),
    family.BIASES,
    Ours('qk_norm', 'head'),
    Ours('moe.balance', {'loss_free': {'rate': 0.001}}),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *family.NORM_BY_HEAD,
    *family.DENSE,
    *family.router(float32=True),
    family.selection_bias(),
    *family.swiglu('mlp.shared_experts.', 'moe/ffn/shared'),
  ),
  experts={'by expert': family.experts(), 'fused': family.FUSED},
  defaults=family.USUAL
  | {
    'attention_bias': False,
    'first_k_dense_replace': 0,
    'head_dim': None,
    'hidden_size': 4608,
    'intermediate_size': 10944,
    'layer_types': None,
    'max_position_embeddings': 2048,
    'max_window_layers': 62,
    'moe_intermediate_size': 1408,
    'n_group': 1,
    'n_routed_experts': None,
    'n_shared_experts': None,
    'norm_topk_prob': False,
    'num_attention_heads': 32,
    'num_experts_per_tok': None,
    'num_hidden_layers': 62,
    'num_key_value_heads': 32,
    'routed_scaling_factor': 1.0,
    'sliding_window': 4096,
    'topk_group': 1,
    'vocab_size': 152064,
  },
)
