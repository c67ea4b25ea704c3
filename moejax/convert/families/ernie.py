"""ERNIE 4.5 with experts (model_type ernie4_5_moe)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Only, Ours
from moejax.convert.layer_keys import ERNIE_LAYERS
from moejax.convert.rotary import Rotary

ERNIE4_5_MOE = family.Family(
  model_type='ernie4_5_moe',
  architecture='Ernie4_5_MoeForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS,
    family.HEAD_DIM_OR_SQUARE,
    Rotary(),
    Ours('rope.interleaved', True),
    ERNIE_LAYERS,
    family.DENSE_WIDTH,
    family.EXPERT_WIDTH,
    Key('moe_num_experts|num_experts', 'moe.num_experts'),
    Key('moe_num_shared_experts', 'moe.num_shared'),
    Key('moe_k|num_experts_per_tok', 'moe.router.k'),
    Only('use_bias', False, null=True),
    # Their lower bound of the sum that gates are divided by. Ours is smaller
    # yet, so it makes no difference.
    Only('moe_norm_min', 1e-12),
    Ours('moe.router.renormalise', True),
    Ours('moe.balance.loss_free.rate', 0.001),
    *family.aux_loss(0.001, 'of_logits'),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *family.DENSE,
    *family.router(float32=True),
    *family.swiglu('mlp.shared_experts.', 'moe/ffn/shared'),
  ),
  experts={
    'by expert': (
      *family.experts(),
      family.selection_bias('mlp.moe_statics.e_score_correction_bias', '1 E'),
    ),
    'fused': (
      *family.FUSED,
      family.selection_bias(
        'mlp.gate.moe_statics.e_score_correction_bias', '1 E'
      ),
    ),
  },
  # Modules of multi-token prediction, in a form that moejax does not have.
  ignored=(*family.IGNORED, r'.*mtp.*'),
  defaults=family.USUAL
  | {
    'head_dim': None,
    'hidden_size': 2560,
    'intermediate_size': 12288,
    'max_position_embeddings': 131072,
    'moe_intermediate_size': 1536,
    'moe_k': 6,
    'moe_layer_end_index': -1,
    'moe_layer_interval': 1,
    'moe_layer_start_index': 1,
    'moe_norm_min': 1e-12,
    'moe_num_experts': 64,
    'moe_num_shared_experts': 2,
    'num_attention_heads': 20,
    'num_hidden_layers': 28,
    'num_key_value_heads': 4,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500_000.0,
    'tie_word_embeddings': True,
    'use_bias': False,
    'vocab_size': 103424,
  },
)
