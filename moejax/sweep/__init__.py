"""Many runs: lists of configs or a search, where they run, what came out."""

from moejax.sweep.budgets import equal_flops
from moejax.sweep.grid import (
  SweepRun,
  change,
  each,
  product,
  run,
  sample,
  seeds,
  zipped,
)
from moejax.sweep.searches import search
from moejax.sweep.space import RANGES

# The ranges under the names of their table.
choice, integers = RANGES['choice'], RANGES['integers']
log_uniform, uniform = RANGES['log_uniform'], RANGES['uniform']

__all__ = [
  'SweepRun',
  'change',
  'choice',
  'each',
  'equal_flops',
  'integers',
  'log_uniform',
  'product',
  'run',
  'sample',
  'search',
  'seeds',
  'uniform',
  'zipped',
]
