"""DeepSeekMoE 145B: 144.6B parameters, of which a token uses 22.2B.

  moejax count --config=ds_145b
  moejax plan --config=ds_145b --topology=v5p:8x8x8
  moejax train --config=ds_145b:tiny

Section 7 of the paper (arXiv 2401.06066): 128 routed experts, top-12, and 4
shared ones in all layers but the first, each an eighth as wide as a standard
feed-forward; experts over 4 devices, which they are not here. What it is
compared with, behind a colon:

  half    142.3B, 13.6B: half as many experts per token (2 shared, top-6)
  gshard  136.5B, 21.7B: 16 experts of standard width, top-2

(The larger figures of each pair are without routers and norms.) The paper
prints 144.6B/22.2B, 142.3B/12.2B and 136.5B/21.6B, and 585.6T, 374.6T and
572.7T FLOPs per 4K tokens. Where that does not add up, here is what does:

  half    13.6B are active, not 12.2B: the printed FLOPs, too, need 13.6B
  gshard  21.68B are active, printed as 21.6B
  FLOPs   585.3T, 374.5T and 573.5T by the rule in moejax/plan/count.py: the
          paper counts the first layer like the others, and gshard with the
          unrounded width; so 374.6T and 572.7T come out, and 585.5T

The default is made for, and alone was planned on, a TPU v5p slice of 8 x 8 x 8
chips; `half` and `gshard` have its mesh and chunks, and nobody knows whether
they fit. None was run at full size. Ours: as in ds_16b.py, and that `gshard`
keeps the random choice of its second expert.
"""

from moejax import config

VARIANTS = {
  'deepseek_moe': {},
  'half': {
    'model.moe.num_shared': 2,
    'model.moe.router.k': 6,
    # The printed 142.3B is with a first layer half as wide.
    'model.dense_width': 10_944,
  },
  'gshard': {
    'model.moe.num_experts': 16,
    'model.moe.num_shared': 0,
    'model.moe.expert_width': 10_944,  # 8/3 D, to the next multiple of 64
    'model.moe.router': {'name': 'gshard'},
    'model.moe.balance': {'gshard_aux': {'coefficient': 0.003}},
  },
}


def get_config(name):
  """The paper's settings; what is ours is marked here and in ds_16b.py."""
  c = config.beside(__file__, 'ds_16b.py')
  c.model.num_layers = 62
  c.model.width = 4096
  c.model.num_heads = 32
  c.model.dense_width = 21_888  # two standard ones, to a multiple of 64
  c.model.moe.num_experts = 128
  c.model.moe.num_shared = 4
  c.model.moe.expert_width = 1408  # 1365.33, to the next multiple of 64
  c.model.moe.router = {'name': 'top_k', 'k': 12, 'renormalise': False}
  c.model.moe.balance = {
    'expert_level': {'alpha': 0.003},
    'device_level': {'alpha': 0.05, 'num_groups': 4},
  }

  c.opt.peak_lr = 3.0e-4
  c.opt.schedule = {'name': 'constant', 'warmup': 2000}
  c.train.steps = 13_000
  # The paper has experts over 4 devices. Over all of 512 chips, each gathers
  # the experts of a layer: docs/plans.md.
  c.model.token_chunks = 1  # all of the 9 rows that a chip has
  c.mesh.data = 4
  c.mesh.fsdp = -1  # 128
  return config.vary(c, VARIANTS, name)
