"""The command `plan` as a process: this one's JAX has been told to be a CPU."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'ds_2b.py'


def plan(folder, *flags):
  """Of `CONFIG:tiny`: exit code, the JSON, and what was said on stderr."""
  env = dict(os.environ)
  env.pop('XLA_FLAGS', None)
  env['PYTHONPATH'] = os.pathsep.join([str(ROOT), env.get('PYTHONPATH', '')])
  out = folder / 'plan.json'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'moejax.cli.plan',
      f'--config={CONFIG}:tiny',
      f'--out={out}',
      *flags,
    ],
    capture_output=True,
    text=True,
    env=env,
    check=False,
  )
  tree = json.loads(out.read_text()) if out.exists() else None
  return done.returncode, tree, done.stderr
