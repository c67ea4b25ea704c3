"""Sweeps on GKE: an xpk workload for each run, by tpu_scripts/xpk.sh.

The script reads what it needs from an environment file. Each run gets a file
that reads the user's own and then names the run's config, workdir and flags.
"""

import os
import pathlib
import re
import shlex
import tempfile
from collections.abc import Mapping

from moejax.core import errors, shipped
from moejax.sweep import submitting
from moejax.sweep.grid import SweepRun

FOLDER = 'tpu_scripts'
VARIABLE = 'MOEJAX_ENV'
LONGEST_NAME = 40  # characters of the name of a workload

ENVIRONMENT = """\
source {own}
CONFIG={config}
WORKDIR={workdir}
NAME={name}
FLAGS+=({flags})
"""


def scripts(checkout: pathlib.Path = shipped.PACKAGE.parent) -> pathlib.Path:
  """The folder of the scripts, in the current folder or the checkout.

  Raises:
    InputError: they are not there; a wheel does not have them.
  """
  for folder in (pathlib.Path(FOLDER), checkout / FOLDER):
    if (folder / 'xpk.sh').is_file():
      return folder.resolve()
  raise errors.InputError(
    f'--runner=xpk calls {FOLDER}/xpk.sh, which is neither here nor beside the '
    'package: run this from the root of a checkout of moejax'
  )


def workload(sweep: str, index: int) -> str:
  """The name of a run's workload: small letters, digits and '-'.

  Example: 'My_routers' and 3 are 'my-routers-3'.
  """
  end = f'-{index}'
  name = re.sub('[^a-z0-9]+', '-', sweep.lower()).strip('-')
  if not name[:1].isalpha():
    name = f'sweep-{name}'.strip('-')
  return name[: LONGEST_NAME - len(end)].rstrip('-') + end


def config_in_image(config: str) -> str:
  """A config as the image finds it: a shipped one by its name.

  Example: '/home/me/moejax/configs/zoo.py:switch' is 'zoo:switch'.
  """
  path, colon, words = config.partition(':')
  top = shipped.folder()
  file = pathlib.Path(shipped.find(path, 'config')).resolve()
  if top is not None and file.is_relative_to(top):
    path = file.relative_to(top).with_suffix('').as_posix()
  return f'{path}{colon}{words}'


def start(
  sweep: str,
  workdir: str,
  runs: Mapping[int, SweepRun],
  dry_run: bool,
) -> str:
  """Creates the workload of each run.

  Args:
    sweep: name of the sweep.
    workdir: its folder, in a bucket.
    runs: the runs, by their index in the list of the sweep.
    dry_run: whether the commands are shown alone.

  Returns:
    What the scripts printed.

  Raises:
    InputError: the scripts are missing, or one of them failed.
  """
  if '://' not in workdir:
    raise errors.InputError(
      f'--runner=xpk with --workdir={workdir}: the pods do not see this disk; '
      'give a folder in a bucket, such as --workdir=gs://my-bucket/my_sweep'
    )
  folder = scripts()
  own = os.environ.get(VARIABLE, os.fspath(folder / 'env.sh'))
  if not pathlib.Path(own).is_file():
    raise errors.InputError(
      f'no {own}: copy {folder / "env.example.sh"} there, and edit it'
    )
  shown = ''
  with tempfile.TemporaryDirectory(prefix='moejax-xpk-') as made:
    for index, run in runs.items():
      path = pathlib.Path(made) / f'{index}.sh'
      text = ENVIRONMENT.format(
        own=shlex.quote(os.path.abspath(own)),
        config=shlex.quote(config_in_image(run.config)),
        workdir=shlex.quote(f'{workdir.rstrip("/")}/{run.name}'),
        name=workload(sweep, index),
        flags=shlex.join(run.flags),
      )
      path.write_text(text, encoding='utf-8')
      words = ['bash', os.fspath(folder / 'xpk.sh'), 'run']
      words += ['--dry-run'] if dry_run else []
      shown += submitting.output(
        words,
        f'xpk.sh run failed for run {run.name!r}: ',
        environment={VARIABLE: os.fspath(path)},
      )
  return shown
