"""Shapes, routing and balance of released models: 5 with experts, 3 dense.

  moejax count --config=released:mixtral_8x7b
  moejax train --config=released:tiny,olmoe_1b_7b

  deepseek_moe_16b   16.4B  2.8B   64 top-6 + 2 shared, the first layer dense
  mixtral_8x7b       46.7B  12.9B  8 top-2, renormalised
  olmoe_1b_7b         6.9B  1.3B   64 top-8
  qwen1_5_moe_a2_7b  14.3B  2.7B   60 top-4 + 4 shared behind a gate
  qwen3_30b_a3b      30.5B  3.3B   128 top-8, renormalised
  deepseek_7b         6.9B         the dense models of DeepSeekMoE's tables 3
  llama2_7b           6.7B         and 6 (arXiv 2401.06066)
  deepseek_67b       67.4B

Active parameters are as published if routers and norms do not count. Balance
losses have the published coefficients, of the sequence-wise loss where the
release has it (`seq_aux`), else of the loss of transformers' class. How the
models were trained is not here: learning rate, batch, steps and text are
moejax's defaults.
DeepSeek-V2-Lite, V2 and V3 are in deepseek_v3.py.
Counted and run with `:tiny`; not run at full size.
"""

from moejax import config


def _shape(layers, width, heads, vocab, length=4096, **more):
  """The keys of a decoder; a head has 128 features."""
  model = {
    'num_layers': layers,
    'width': width,
    'num_heads': heads,
    'head_dim': 128,
    'vocab_size': vocab,
    'max_length': length,
    **more,
  }
  return {f'model.{key}': value for key, value in model.items()}


def _moe(num, width, router, balance, **more):
  moe = {
    'num_experts': num,
    'expert_width': width,
    'router': {'name': 'top_k', **router},
    'balance': balance,
    **more,
  }
  return {f'model.moe.{key}': value for key, value in moe.items()}


def _transformers(coefficient):
  """The loss of transformers' class: a config.json's router_aux_loss_coef."""
  return {
    'switch': {'alpha': coefficient, 'form': 'multi_hot', 'layers': 'together'}
  }


VARIANTS = {
  'deepseek_moe_16b': {
    **_shape(28, 2048, 16, 102_400, first_dense=1, dense_width=10_944),
    **_moe(64, 1408, {'k': 6}, {'sequence_level': {'alpha': 0.001}}),
    'model.moe.num_shared': 2,
  },
  'mixtral_8x7b': {
    **_shape(32, 4096, 32, 32_000, 32_768, num_kv_heads=8),
    **_moe(8, 14_336, {'k': 2, 'renormalise': True}, _transformers(0.02)),
    'model.norm_eps': 1e-5,
    'model.rope.base': 1e6,
  },
  'olmoe_1b_7b': {
    **_shape(16, 2048, 16, 50_304),
    **_moe(64, 1024, {'k': 8}, _transformers(0.01)),
    # A mean over the 16 layers: 0.001 / 16.
    'model.moe.balance.z_loss': {'coefficient': 6.25e-5},
    'model.qk_norm': 'width',
    'model.norm_eps': 1e-5,
  },
  'qwen1_5_moe_a2_7b': {
    **_shape(24, 2048, 16, 151_936, 8192),
    **_moe(60, 1408, {'k': 4}, _transformers(0.001)),
    'model.moe.num_shared': 4,  # one of width 5632, which is the same
    'model.moe.shared.gate': True,
    'model.qkv_bias': True,
    'model.rope.base': 1e6,
  },
  'qwen3_30b_a3b': {
    **_shape(48, 2048, 32, 151_936, 40_960, num_kv_heads=4),
    **_moe(128, 768, {'k': 8, 'renormalise': True}, _transformers(0.001)),
    'model.qk_norm': 'head',
    'model.rope.base': 1e6,
  },
  'deepseek_7b': _shape(30, 4096, 32, 102_400, dense_width=11_008),
  'llama2_7b': {
    **_shape(32, 4096, 32, 32_000, dense_width=11_008),
    'model.norm_eps': 1e-5,
  },
  'deepseek_67b': _shape(
    95, 8192, 64, 102_400, num_kv_heads=8, dense_width=22_016
  ),
}


def get_config(name):
  """One of VARIANTS, by default deepseek_moe_16b."""
  c = config.default()
  c.model.tie_embeddings = False
  c.model.init_std = 0.02  # of all releases that publish it
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.data.mixture = 'fineweb_edu'
  c.data.sequence_length = 4096
  c.mesh.data = 1
  c.mesh.fsdp = -1
  return config.vary(c, VARIANTS, name)
