"""Every method of configs/sweeps/studies.py with three learning rates, seed 0.

  moejax sweep --sweep=studies_rates \
    --workdir=runs/studies --processes=2

All methods get the same effort: the same three rates, one run of full length
each. The runs of the middle rate come first, so that a sweep that was stopped
has one run of every method.
"""

from moejax import sweep
from moejax.config import user_files

STUDIES = __file__.replace('studies_rates.py', 'studies.py')


def get_sweep():
  """All methods with the first rate, then with the second and the third."""
  studies = user_files.load(STUDIES, 'sweep')
  runs = [
    one
    for rate in studies.RATES
    for one in sweep.product(studies.methods(), {'opt.peak_lr': [rate]})
  ]
  return sweep.seeds(runs, 1)
