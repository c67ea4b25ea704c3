"""The config of a run: all keys, and how a file and flags become a `Run`.

  moejax train --config=tiny
  moejax train --config=ds_2b:tiny --config.opt.peak_lr=3e-4 --workdir=runs/new

A config file is Python with a function `get_config()`, which takes the tree of
defaults, `moejax.config.default()`, changes some keys and returns it. With
`get_config(arg)` the function gets the words behind the colon of `--config`.
A file that moejax ships has a name: `--config=tiny` is configs/tiny.py.

The word `tiny` behind a colon works with every file: it shrinks the run that
the file describes to one that a laptop trains in under a minute. It may stand
before or behind other words, with a colon or a comma between them.
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
from moejax.config.stages import Stage

__all__ = [
  'SEPARATOR',
  'ReportConfig',
  'Run',
  'Stage',
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
