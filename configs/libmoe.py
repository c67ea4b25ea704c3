"""LibMoE's language models, 0.15B and 0.68B, with five of its algorithms.

  moejax count --config=libmoe:v3_679m
  moejax train --config=libmoe:tiny,v2_158m

LibMoE (arXiv 2411.00918, and 2505.10860 with the same code), behind the colon
`<algorithm>_<size>`. Perplexity as printed for 158m and 679m:

  smoe  66 experts, top-8 of a softmax, renormalised           13.63  9.51
  xmoe  the same, cosine scores under two softmaxes            13.98  9.66
  sg    the same, top-8 of sigmoids, renormalised              13.61  9.46
  v2    2 shared + 64, top-6 of a softmax, renormalised        13.49  9.52
  v3    2 shared + 64, top-6 of sigmoids, renormalised         13.42  9.49

As its code has it, not its papers' names: "V2" renormalises and "V3" has no
selection bias. 6.55B and 26.2B tokens of SlimPajama. (Its MoE++ and TC-MoE do
not run as published; those of their papers are in zoo.py.)

Ours: RMSNorm without bias for LayerNorm, no bias in the head, rotary positions
on all of a head and not on half of it, no decay of norms, routers that start
with init_std, the shipped vocabulary of 8,192 ids for theirs of 8,000, and a
public text. With their vocabulary and biases the parameters are theirs to the
last: 157.9M as their code logs it, and 678.3M, which they print as 679M. Their
papers say 12 and 16 heads, their code and their counts 4. Counted and run with
`:tiny`; not run at full size.
"""

from moejax import config

ALL = {'model.moe.num_experts': 66}
SHARED = {'model.moe.num_experts': 64, 'model.moe.num_shared': 2}


def _router(k, score='softmax'):
  router = {'name': 'top_k', 'k': k, 'score': score, 'renormalise': True}
  return {'model.moe.router': router}


SIGMOID = {'sequence_level': {'alpha': 0.01, 'probability': 'sigmoid'}}
ALGORITHMS = {
  'smoe': {**ALL, **_router(8)},
  'xmoe': {
    **ALL,
    **_router(8, 'double_softmax'),
    'model.moe.scorer': {
      'name': 'cosine',
      'learns_tau': False,
      'row_norm': 1.5,
      'in_place': True,
      'balance_tau': 0.0,
    },
  },
  'sg': {**ALL, **_router(8, 'sigmoid')},
  'v2': {**SHARED, **_router(6)},
  'v3': {**SHARED, **_router(6, 'sigmoid'), 'model.moe.balance': SIGMOID},
}


def _size(layers, width, head, experts, steps, **opt):
  return {
    'model.num_layers': layers,
    'model.width': width,
    'model.head_dim': head,
    'model.moe.expert_width': experts,
    'model.moe.experts.sigma_init': (2 / layers) ** 0.5,
    'train.steps': steps,
    **{f'opt.{key}': value for key, value in opt.items()},
  }


def _cosine(warmup):
  return {'name': 'cosine', 'warmup': warmup, 'end': 0.1}


SIZES = {
  '158m': _size(16, 512, 82, 128, 100_000, clip_norm=0.1, schedule=_cosine(0)),
  '679m': _size(
    18, 1024, 128, 256, 400_000, clip_norm=0.25, schedule=_cosine(4000)
  ),
}
VARIANTS = {
  f'{algorithm}_{size}': {**SIZES[size], **ALGORITHMS[algorithm]}
  for size in SIZES
  for algorithm in ALGORITHMS
}


def get_config(name):
  """One of VARIANTS, by default smoe_158m, on the settings that all share."""
  c = config.default()
  c.model.vocab_size = 8192  # theirs: 8000
  c.model.max_length = 1024
  c.model.num_heads = 4
  c.model.tie_embeddings = False
  c.model.init_std = 0.02
  c.model.dtype = 'bfloat16'
  c.model.moe.experts = {'name': 'two_matrix', 'activation': 'relu'}
  c.model.moe.balance = {'sequence_level': {'alpha': 0.01}}

  c.data.mixture = 'fineweb_edu'
  c.data.sequence_length = 1024

  c.opt.peak_lr = 2.5e-4
  c.opt.beta1 = 0.9
  c.opt.beta2 = 0.999
  c.opt.weight_decay = 0.01

  c.train.batch_size = 64  # 65,536 tokens
  c.train.checkpoint_every = 10_000
  c.train.eval_every = 10_000
  return config.vary(c, VARIANTS, name)
