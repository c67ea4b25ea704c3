"""Five methods of configs/sweeps/studies.py with six times the tokens.

  moejax sweep --sweep=studies_long \
    --workdir=runs/studies_long --processes=2

3.1M tokens a run, ten times those of configs/sweeps/headline.py, for the
question whether small gates at the start only delay the experts. One seed; the
rates are those of the shorter runs.
"""

from moejax import sweep
from moejax.config import user_files

STUDIES = __file__.replace('studies_long.py', 'studies.py')
NAMES = ('deepseek_moe', 'deepseek_moe_sum_1', 'gshard', 'hash', 'dense')
STEPS = 3000


def get_sweep():
  """One seed of each."""
  studies = user_files.load(STUDIES, 'sweep')
  runs = studies.methods(NAMES, STEPS, at=(0,))
  return sweep.seeds(studies.at_rates(runs, studies.best_rates()), 1)
