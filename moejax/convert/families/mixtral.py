"""Mixtral (arXiv 2401.04088)."""

from moejax.convert.families import family
from moejax.convert.keys import Key, Ours, Rotary, Windows

MIXTRAL = family.Family(
  model_type='mixtral',
  architecture='MixtralForCausalLM',
  keys=(
    *family.COMMON,
    Key('rms_norm_eps', 'norm_eps', 1e-5),
    family.HEAD_DIM,
    Rotary(theta=1e6),
    Windows(by_layer=False),
    Key('num_local_experts', 'moe.num_experts', 8),
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
  # transformers 5 calls the router otherwise in memory, too.
  experts={
    'by expert': (
      *family.experts('block_sparse_moe.experts.', 'w1', 'w3', 'w2'),
      *family.router('block_sparse_moe.gate.'),
    ),
    'fused': (*family.FUSED, *family.router()),
  },
)
