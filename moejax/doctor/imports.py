"""Imports modules, one after the other, and prints what each of them raised.

  python -m moejax.doctor.imports numpy jax

`examine` runs it as a process of its own, which a module may end.
"""

import importlib
import sys
from collections.abc import Sequence

from moejax.doctor import lines


def main(modules: Sequence[str]) -> None:
  """Prints a line before each import, and one behind it."""
  for module in modules:
    lines.begin(module)
    lines.end(error_of(module))


def error_of(module: str) -> str:
  """What the import of a module raises, as one line; '' for nothing."""
  try:
    importlib.import_module(module)
  except BaseException as e:  # noqa: BLE001  # a broken package may raise any
    words = ' '.join(str(e).split())
    return f'{type(e).__name__}: {words}' if words else type(e).__name__
  return ''


if __name__ == '__main__':
  main(sys.argv[1:])
