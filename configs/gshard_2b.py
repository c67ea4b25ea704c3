"""GShard beside DeepSeekMoE 2B: 1.967B parameters, a token uses 0.316B of them.

  python -m moejax.cli.count --config=configs/gshard_2b.py
  python -m moejax.main --config=configs/gshard_2b.py
  python -m moejax.main --config=configs/gshard_2b.py:tiny

The main baseline of the paper (arXiv 2401.06066, section 4.1.3 and Table 1): 16
experts as wide as a standard feed-forward, top-2, all else as in ds_2b.py. The
paper's Pile loss is 1.867 (DeepSeekMoE 1.808) at the same 4.3T FLOPs per 2K
tokens, and HellaSwag 50.5. Counted and run with `:tiny`; not run at full size.

The router and the balance loss are GShard's Algorithm 1 (arXiv 2006.16668).
Its capacity is left out: the paper drops no token in any of the models that it
compares, so that they differ in architecture alone. With it:
`--config.model.moe.dispatcher=capacity`. Whether the paper's baseline kept the
random choice of the second expert it does not say; here it is kept.
"""

from moejax.cli import run_config
from moejax.core import config


def get_config():
  """As ds_2b.py, but for the experts."""
  base = __file__.removesuffix('gshard_2b.py') + 'ds_2b.py'
  c = config.to_config_dict(run_config.load(base))
  c.model.moe.num_experts = 16
  c.model.moe.num_shared = 0
  c.model.moe.expert_width = 3413  # 8/3 D: 8 D^2 parameters
  c.model.moe.router = {'name': 'gshard'}
  c.model.moe.dispatcher = {'name': 'dropless'}
  # The paper's coefficient for the 2B models; GShard's own is not printed.
  c.model.moe.balance = {'gshard_aux': {'coefficient': 0.01}}
  return c
