"""gpt-oss: attention sinks, windows, biases; gate and up interleaved."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours
from moejax.convert.layer_keys import EVERY_OTHER
from moejax.convert.rotary import Rotary
from moejax.convert.rules import Rule

_EXPERTS = family.LAYER + 'mlp.experts.'
# Rotary scaling where config.json has none.
_YARN = {
  'rope_type': 'yarn',
  'factor': 32.0,
  'beta_fast': 32.0,
  'beta_slow': 1.0,
  'truncate': False,
  'original_max_position_embeddings': 4096,
}

GPT_OSS = family.Family(
  model_type='gpt_oss',
  architecture='GptOssForCausalLM',
  keys=(
    *family.COMMON,
    family.KV_HEADS,
    family.HEAD_DIM,
    Rotary(null=_YARN),
    EVERY_OTHER,
    Ours('sinks', True),
    family.BIASES,
    Key('num_local_experts|num_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    Key('num_experts_per_tok|experts_per_token', 'moe.router.k'),
    Ours('moe.router.after', True),
    Ours('moe.scorer.bias', True),
    Ours('moe.experts.name', 'clamped_swiglu'),
    Key('swiglu_limit', 'moe.experts.limit'),
    Key('swiglu_alpha', 'moe.experts.alpha'),
    *family.aux_loss(0.001),
  ),
  rules=(
    *family.OUTER,
    *family.NORMS,
    *family.GROUPED,
    *family.SINKS,
    *family.router('mlp.router.'),
  ),
  experts={
    'fused': (
      Rule(_EXPERTS + 'gate_up_proj', 'E D (F two)', family.W_IN, 'E D two F'),
      Rule(
        _EXPERTS + 'gate_up_proj_bias',
        'E (F two)',
        'moe/ffn/routed/b_in_E2F',
        'E two F',
      ),
      Rule(_EXPERTS + 'down_proj', 'E F D', family.W_OUT, 'E F D'),
      Rule(
        _EXPERTS + 'down_proj_bias', 'E D', 'moe/ffn/routed/b_out_ED', 'E D'
      ),
    )
  },
  defaults=family.USUAL
  | {
    'attention_bias': True,
    'head_dim': 64,
    'hidden_size': 2880,
    'intermediate_size': 2880,
    'layer_types': None,
    'max_position_embeddings': 131072,
    'num_attention_heads': 64,
    'num_experts_per_tok': 4,
    'num_hidden_layers': 36,
    'num_key_value_heads': 8,
    'num_local_experts': 128,
    'rms_norm_eps': 1e-5,
    'rope_theta': 150_000.0,
    'sliding_window': 128,
    'swiglu_alpha': 1.702,
    'swiglu_limit': 7.0,
    'vocab_size': 201088,
  },
)
