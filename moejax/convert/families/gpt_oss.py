"""gpt-oss: sinks, windows, biases, and experts with gate and up in turn."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours, Rotary, Windows
from moejax.convert.rules import Rule

_EXPERTS = family.LAYER + 'mlp.experts.'

GPT_OSS = family.Family(
  model_type='gpt_oss',
  architecture='GptOssForCausalLM',
  keys=(
    *family.COMMON,
    Key('rms_norm_eps', 'norm_eps', 1e-5),
    family.HEAD_DIM,
    Rotary(theta=150_000.0),
    Windows(by_layer=True),
    Ours('sinks', True),
    Key('attention_bias', 'qkv_bias', True, also=('out_bias',)),
    Key('num_local_experts|num_experts', 'moe.num_experts'),
    Key('intermediate_size', 'moe.expert_width'),
    Key('num_experts_per_tok|experts_per_token', 'moe.router.k'),
    Ours('moe.router.after', True),
    Ours('moe.scorer.bias', True),
    Ours('moe.experts.name', 'clamped_swiglu'),
    Key('swiglu_limit', 'moe.experts.limit', 7.0),
    Key('swiglu_alpha', 'moe.experts.alpha', 1.702),
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
)
