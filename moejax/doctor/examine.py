"""Examines an installation and a machine, part by part."""

import os
import pathlib
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moejax import __version__
from moejax.doctor import disk, lines, packages
from moejax.doctor.finding import BROKEN, Finding

PYTHON = 'python'
EXPERTS = 'experts'
MACHINE = ('devices', 'matmul', EXPERTS)
PARTS = (PYTHON, packages.PACKAGES, packages.FEATURES, *MACHINE, disk.PART)
# Without them nothing can be said of the machine.
NEEDED = ('numpy', 'jaxlib', 'jax', 'flax')
# Seconds for all imports, and for all parts of the machine. The first use of an
# accelerator, and compiling for it, may take a minute.
IMPORT_S, MACHINE_S = 120.0, 600.0
MEMINFO = pathlib.Path('/proc/meminfo')


def findings(parts: Sequence[str], workdir: str) -> Iterator[Finding]:
  """Everything that is found out, in the order of PARTS.

  Args:
    parts: some of PARTS.
    workdir: the folder whose disk is examined.
  """
  broken: list[str] = []
  for part, examine in _BEFORE.items():
    if part in parts:
      for finding in examine():
        yield finding
        if finding.state == BROKEN and finding.name in NEEDED:
          broken.append(finding.name)
  machine = [part for part in MACHINE if part in parts]
  if broken:
    text = f'not examined: {", ".join(broken)} cannot be used'
    yield from (Finding(part, part, text, BROKEN) for part in machine)
  else:
    yield from _machine(machine)
  if disk.PART in parts:
    yield from disk.findings(workdir)


def _python() -> Iterator[Finding]:
  """Interpreter and machine."""
  system = f'{platform.system()}-{platform.machine()}'.lower()
  version = f'{platform.python_version()}, {system}, {sys.executable}'
  yield Finding(PYTHON, 'python', version)
  folder = pathlib.Path(__file__).resolve().parents[1]
  yield Finding(PYTHON, 'moejax', f'{__version__}, {folder}')
  cores = os.cpu_count() or 1
  yield Finding(PYTHON, 'cores', str(cores), value=cores)
  if MEMINFO.exists():
    yield memory(MEMINFO.read_text())
  for name in ('JAX_PLATFORMS', 'XLA_FLAGS'):
    if os.environ.get(name):
      yield Finding(PYTHON, name, os.environ[name])


def memory(meminfo: str) -> Finding:
  """Memory of the machine, from the text of /proc/meminfo."""
  kilobytes = dict(re.findall(r'(\w+): +(\d+) kB', meminfo))
  total, free = (
    1024 * int(kilobytes.get(name, 0)) for name in ('MemTotal', 'MemAvailable')
  )
  text = f'{total / 2**30:,.1f} GiB, of which {free / 2**30:,.1f} GiB are free'
  return Finding(PYTHON, 'memory', text, value=total, unit='B')


def import_errors(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
  """What the import of each module raises; '' for nothing.

  A module that ends the process is named, and the others are tried after it.
  """
  for module, error in _one_by_one('moejax.doctor.imports', modules, IMPORT_S):
    yield module, str(error)


def _packages() -> Iterator[Finding]:
  return packages.required(import_errors, packages.least_versions())


def _machine(parts: Sequence[str]) -> Iterator[Finding]:
  examined = _one_by_one('moejax.doctor.machine', parts, MACHINE_S)
  for part, value in examined:
    if isinstance(value, lines.EndedError):
      yield Finding(part, part, str(value), BROKEN)
    else:
      yield Finding(**value)


def _one_by_one(
  module: str, names: Sequence[str], limit_s: float
) -> Iterator[tuple[str, Any]]:
  """What a process says of each name, and an EndedError of one that ends it.

  After an end another process goes on with the names behind.
  """
  rest = list(names)
  while rest:
    try:
      yield from lines.of(module, rest, limit_s)
      return
    except lines.EndedError as e:
      name = e.name or rest[0]
      yield name, e
    rest = rest[rest.index(name) + 1 :]


_BEFORE: Mapping[str, Callable[[], Iterator[Finding]]] = {
  PYTHON: _python,
  packages.PACKAGES: _packages,
  packages.FEATURES: packages.features,
}
