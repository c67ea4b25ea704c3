"""GShard beside DeepSeekMoE 2B: 1.967B parameters, a token uses 0.316B of them.

  moejax count --config=gshard_2b
  moejax train --config=gshard_2b
  moejax train --config=gshard_2b:tiny

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

from moejax import config


def get_config():
  """As ds_2b.py, but for the experts."""
  return config.beside(__file__, 'paper_2b.py:gshard')
