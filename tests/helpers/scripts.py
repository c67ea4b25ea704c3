"""Runs tpu_scripts where nothing can reach a cloud.

PATH has a few harmless programs alone, and what a test puts beside them.
"""

import pathlib
import shlex
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / 'tpu_scripts'
HARMLESS = ('bash', 'cat', 'date', 'dirname', 'env', 'grep', 'sleep', 'tail')


def make_place(folder):
  """A folder for an environment file, with a PATH of harmless programs."""
  (folder / 'bin').mkdir()
  for name in HARMLESS:
    (folder / 'bin' / name).symlink_to(shutil.which(name))
  return folder


def program(place, name, text):
  """Puts a program on the PATH of the place."""
  path = place / 'bin' / name
  path.write_text(text)
  path.chmod(0o755)


def run(place, words, more='', environment=(), timeout=60):
  """Runs a script; `more` is added to the environment file."""
  example = (SCRIPTS / 'env.example.sh').read_text()
  (place / 'env.sh').write_text(f'{example}\nPOLL_SECONDS=0.01\n{more}\n')
  name, *args = words.split()
  return subprocess.run(
    ['bash', SCRIPTS / name, *args],
    env={
      'PATH': str(place / 'bin'),
      'MOEJAX_ENV': str(place / 'env.sh'),
      **dict(environment),
    },
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )


def shown(place, words, more=''):
  """The commands that a script would run, each as a list of words."""
  done = run(place, f'{words} --dry-run', more)
  assert done.returncode == 0, done.stderr
  assert not done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines()]
