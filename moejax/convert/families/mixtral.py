"""Mixtral (arXiv 2401.04088)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours
from moejax.convert.layer_keys import ALL_LAYERS
from moejax.convert.rotary import Rotary

MIXTRAL = family.Family(
  model_type='mixtral',
  architecture='MixtralForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS,
    family.HEAD_DIM_OR_SQUARE,
    Rotary(),
    ALL_LAYERS,
    Key('num_local_experts|num_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    Ours('moe.router.renormalise', True),
    *family.aux_loss(0.02),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
  ),
  # The router, too, has another name in the memory of transformers 5.
  experts={
    'by expert': (
      *family.experts('block_sparse_moe.experts.', 'w1', 'w3', 'w2'),
      *family.router('block_sparse_moe.gate.'),
    ),
    'fused': (*family.FUSED, *family.router()),
  },
  defaults=family.USUAL
  | {
    'head_dim': None,
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 131072,
    'num_attention_heads': 32,
    'num_experts_per_tok': 2,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'num_local_experts': 8,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e6,
    'sliding_window': None,
    'vocab_size': 32000,
  },
)
