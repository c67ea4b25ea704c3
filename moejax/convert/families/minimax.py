"""MiniMax-M2 (model_type minimax_m2)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours
from moejax.convert.rotary import Rotary

MINIMAX_M2 = family.Family(
  model_type='minimax_m2',
  architecture='MiniMaxM2ForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS,
    family.HEAD_DIM,
    Rotary(partial=True, features='rotary_dim'),
    Key('num_local_experts|num_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    Ours('qk_norm', 'width'),
    Ours('moe.router.score', 'sigmoid'),
    Ours('moe.router.renormalise', True),
    Ours('moe.balance.loss_free.rate', 0.001),
    *family.aux_loss(0.001, 'of_logits'),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *family.NORM_OF_ALL,
  ),
  experts={
    'by expert': (
      *family.experts('block_sparse_moe.experts.', 'w1', 'w3', 'w2'),
      *family.router('block_sparse_moe.gate.'),
      family.selection_bias('block_sparse_moe.e_score_correction_bias'),
    ),
    'fused': (
      *family.FUSED,
      *family.router(),
      family.selection_bias('mlp.e_score_correction_bias'),
    ),
  },
  defaults=family.USUAL
  | {
    'head_dim': 128,
    'hidden_size': 3072,
    'intermediate_size': 1536,
    'max_position_embeddings': 196608,
    'num_attention_heads': 48,
    'num_experts_per_tok': 8,
    'num_hidden_layers': 62,
    'num_key_value_heads': 8,
    'num_local_experts': 256,
    'rope_theta': 5_000_000.0,
    'rotary_dim': None,
    'vocab_size': 200064,
  },
)
