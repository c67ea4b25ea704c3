"""transformers, in another process: of any Python that has it and torch.

It is the Python of MOEJAX_HF_PYTHON, or this one.
"""

import functools
import os
import pathlib
import re
import subprocess
import sys

PYTHON = os.environ.get('MOEJAX_HF_PYTHON', sys.executable)
SCRIPT = pathlib.Path(__file__).parents[1] / 'golden' / 'make_hf.py'


def theirs(*words, script=SCRIPT):
  """What the script says."""
  done = subprocess.run(
    [PYTHON, str(script), *map(str, words)],
    capture_output=True,
    text=True,
    check=False,
    timeout=900,  # all families are made at once
    env={**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


@functools.cache
def is_there():
  """Whether that Python has torch and transformers."""
  if 'MOEJAX_HF_PYTHON' in os.environ:
    return True  # or the first test fails, and says why
  probe = [PYTHON, '-c', 'import torch, transformers']
  return not subprocess.run(probe, capture_output=True, check=False).returncode


def far(folder, expected):
  """The class that transformers loads, and its relative difference."""
  found = re.search(r'^(\w+) (\S+)$', theirs('check', folder, expected), re.M)
  return found[1], float(found[2])
