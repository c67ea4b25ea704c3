"""OLMoE (arXiv 2409.02060): queries and keys normalised over all heads."""

from moejax.convert.families import family
from moejax.convert.keys import Derived, Key, Only, Ours, Rotary

OLMOE = family.Family(
  model_type='olmoe',
  architecture='OlmoeForCausalLM',
  keys=(
    *family.COMMON,
    Key('rms_norm_eps', 'norm_eps', 1e-5),
    Derived('head_dim', family.square),
    Rotary(),
    Ours('qk_norm', 'width'),
    Key('attention_bias', 'qkv_bias', False, also=('out_bias',)),
    Only('clip_qkv', None),
    Key('num_experts', 'moe.num_experts', 64),
    Key('intermediate_size', 'moe.expert_width'),
    family.K,
    family.RENORMALISE,
    *family.aux_loss(0.01),
    # A mean over layers: 0.001 / 16 in the released model.
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
)
