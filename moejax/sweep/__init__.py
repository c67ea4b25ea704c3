"""Many runs: lists of configs, a pool of processes, a table of results."""

from moejax.sweep.grid import SweepRun, change, each, product, run, seeds

__all__ = ['SweepRun', 'change', 'each', 'product', 'run', 'seeds']
