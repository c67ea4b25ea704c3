"""Software and devices of a run."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

PACKAGES = (
  'absl-py', 'etils', 'flax', 'jax', 'jaxlib', 'libtpu', 'ml-collections',
  'moejax', 'numpy', 'optax', 'orbax-checkpoint', 'pyarrow', 'rich',
  'safetensors', 'sentencepiece', 'seqio', 'tensorboardX', 'tensorflow',
  'tensorflow-datasets', 'tensorflow-text', 'tensorstore', 'tokenizers',
)  # fmt: skip


def version(package: str) -> str | None:
  """The version of an installed package; None if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def versions() -> dict[str, Any]:
  """Software and devices of this run, for versions.json.

  Nothing in it names the machine. Example:
    {'python': '3.11.7', 'platform': 'linux-x86_64',
     'packages': {'jax': '0.10.2', ...},
     'git': {'commit': '1a2b...', 'changed': False},
     'devices': {'backend': 'cpu', 'kind': 'cpu', 'count': 8, 'processes': 1}}
  """
  installed = {name: version(name) for name in PACKAGES}
  packages = {name: text for name, text in installed.items() if text}
  return {
    'python': platform.python_version(),
    'platform': f'{platform.system()}-{platform.machine()}'.lower(),
    'packages': packages,
    'git': git_state(pathlib.Path(__file__).parent),
    'devices': {
      'backend': jax.default_backend(),
      'kind': jax.devices()[0].device_kind,
      'count': jax.device_count(),
      'processes': jax.process_count(),
    },
  }


def git_state(folder: pathlib.Path) -> dict[str, Any] | None:
  """Commit of a checkout, and whether its tracked files differ from the commit.

  None without git, and for a folder that git does not track: a copy installed
  below somebody else's repository must not be given that repository's commit.
  """
  if not _git(folder, 'ls-files'):
    return None
  commit = _git(folder, 'rev-parse', 'HEAD')
  if not commit:
    return None
  changes = _git(folder, 'status', '--porcelain', '--untracked-files=no')
  return {'commit': commit, 'changed': changes != ''}


def _git(folder: pathlib.Path, *args: str) -> str | None:
  """Output of a git command; None if the command fails or git is missing."""
  command = ['git', '-C', os.fspath(folder), *args]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=30, check=False
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() if done.returncode == 0 else None
