"""The dense model beside DeepSeekMoE 2B: 0.198B parameters, all of them active.

  moejax count --config=dense_2b
  moejax train --config=dense_2b
  moejax train --config=dense_2b:tiny

What the 2B models of the paper become with one standard feed-forward in place
of the experts (arXiv 2401.06066, section 4.1.3 and Table 1, "Dense", 0.2B); all
else as in ds_2b.py. The paper's Pile loss is 2.060 (DeepSeekMoE 1.808) at 2.9T
FLOPs per 2K tokens, and HellaSwag 38.8. Counted and run with `:tiny`; not run
at full size.
"""

from moejax import config


def get_config():
  """As ds_2b.py, but without experts."""
  return config.beside(__file__, 'paper_2b.py:dense')
