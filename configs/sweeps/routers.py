"""Every algorithm of the zoo once, at equal active and total parameters.

  moejax sweep --sweep=routers --processes=2 \
    --out=docs/routers.md

100 steps of 1,024 tokens of the minipile each: enough to see what trains and
what is balanced, not what is best in the end. One seed.
"""

from moejax import sweep
from moejax.config import user_files


def get_sweep():
  """One run for each entry of configs/zoo.py."""
  zoo = __file__.removesuffix('sweeps/routers.py') + 'zoo.py'
  names = user_files.load(zoo, 'config').NAMES
  runs = [
    *sweep.each(zoo, names),
    # The same but for the size of the gates at the start.
    *sweep.run(
      f'{zoo}:deepseek_moe',
      {'model.moe.router.renormalise': True},
      name='deepseek_moe_renormalised',
    ),
  ]
  return sweep.change(runs, {'report.eval_batches': 8, 'report.samples': 0})
