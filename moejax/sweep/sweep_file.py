"""Sweep files: Python whose function `get_sweep()` says what is trained.

It returns a list of runs (`grid.py`) or a search (`searches.py`).
"""

import collections
import re

from moejax.config import user_files
from moejax.core import compile_cache, errors, shipped
from moejax.sweep.grid import SweepRun
from moejax.sweep.searches import Search

# A run's name is a folder, and a word of --only.
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=+-]*')


def load(path: str) -> list[SweepRun] | Search:
  """What a sweep file says, or a shipped sweep by its name.

  Raises:
    InputError: the file does not exist or has no get_sweep(), get_sweep()
      returns neither a list of runs nor a search, or a name is used twice or
      names no folder.
  """
  file = shipped.find(path, 'sweep')
  get_sweep = getattr(user_files.load(file, 'sweep'), 'get_sweep', None)
  if not callable(get_sweep):
    raise errors.InputError(
      f'{path} has no function get_sweep(); a config file is for moejax train'
    )
  runs = user_files.call(file, get_sweep)
  if isinstance(runs, Search):
    _check_name(path, runs.base.name)
    return runs
  is_list = isinstance(runs, list) and len(runs) > 0
  if not is_list or not all(isinstance(one, SweepRun) for one in runs):
    raise errors.InputError(
      f'{path}: get_sweep() must return a list of runs, such as '
      "sweep.run('configs/tiny.py')"
    )
  for name, count in collections.Counter(one.name for one in runs).items():
    if count > 1:
      raise errors.InputError(
        f'{path}: {count} runs are called {name!r}; give them names of their '
        'own'
      )
    _check_name(path, name)
  return runs


def _check_name(path: str, name: str) -> None:
  """Raises InputError if a run cannot have a name."""
  if not NAME.fullmatch(name) or name == compile_cache.FOLDER:
    raise errors.InputError(
      f'{path}: a run cannot be called {name!r}: its name is a folder; use '
      'letters, digits and . _ = + -'
    )
