"""A run: every key there is, and how a config file becomes one.

  python -m moejax.main --config=configs/tiny.py
  python -m moejax.main --config=configs/ds_2b.py:tiny --config.opt.peak_lr=3e-4

A config file is Python with `get_config()` (or `get_config(arg)`, given what
stands behind the colon), which returns `to_config_dict(Run())` with the keys it
cares for changed. `:tiny` is for every file: it shrinks whatever the file
describes to what a laptop runs in under a minute. It may stand before or behind
other words, with a colon or a comma between them.
"""

from moejax.config.loading import (
  SEPARATOR,
  beside,
  default,
  default_workdir,
  from_checkpoint,
  load,
  of_tree,
  of_workdir,
  vary,
)
from moejax.config.run import ReportConfig, Run
from moejax.config.shrinking import shrink

__all__ = [
  'SEPARATOR',
  'ReportConfig',
  'Run',
  'beside',
  'default',
  'default_workdir',
  'from_checkpoint',
  'load',
  'of_tree',
  'of_workdir',
  'shrink',
  'vary',
]
