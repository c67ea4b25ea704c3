"""The configs and sweeps that moejax ships, by their names.

In a checkout they are in `configs/`, beside the package. `setup.py` copies that
folder into a wheel as `moejax/configs/`, so that `--config=tiny` works wherever
moejax is installed. A file of the user comes before a shipped one.
"""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
SWEEPS = 'sweeps'
# Kind of file -> its folder in that of the configs.
FOLDERS = {'config': '', 'sweep': SWEEPS}


def folder(package: pathlib.Path = PACKAGE) -> pathlib.Path | None:
  """The folder of the shipped configs; None if there is none.

  Args:
    package: the folder of the package `moejax`.
  """
  if (package / 'configs').is_dir():
    return package / 'configs'
  # Beside an installed package, `configs` would be the folder of a stranger.
  checkout = package.parent
  beside = checkout / 'configs'
  is_checkout = (checkout / 'setup.cfg').is_file()
  return beside if is_checkout and beside.is_dir() else None


def names(kind: str) -> list[str]:
  """The names of all shipped files of a kind, sorted.

  Example, kind 'config': ['deepseek_v3', ..., 'hf/chat', ..., 'tiny', ...].
  """
  top = folder()
  if top is None:
    return []
  base = top / FOLDERS[kind]
  found = (path.relative_to(base) for path in base.rglob('*.py'))
  return sorted(
    path.with_suffix('').as_posix()
    for path in found
    if kind == 'sweep' or path.parts[0] != SWEEPS
  )


def find(path: str, kind: str) -> str:
  """The file that a word of the user names.

  Args:
    path: the path of a file, the same without `.py`, or the name of a shipped
      file.
    kind: config or sweep.

  Returns:
    A path. It is `path` itself where that is a file, ends in `.py`, or names
    nothing.

  Example: 'mine.py' stays; 'mine' is 'mine.py' if that is a file; 'tiny' is
    '/.../configs/tiny.py' unless the user has a file `tiny` or `tiny.py`.
  """
  file = pathlib.Path(path)
  if not path or file.suffix == '.py' or (file.exists() and not file.is_dir()):
    return path
  own = f'{path}.py'
  if pathlib.Path(own).is_file():
    return own
  top = folder()
  if top is not None and path in names(kind):
    return str(top / FOLDERS[kind] / own)
  return path


def name_in(path: str, kind: str) -> str:
  """The name of the shipped file that a path in `configs/` is meant to be.

  Example: 'configs/tiny.py' and '/my/configs/tiny.py' are 'tiny'; a path that
    is not in a folder `configs`, or names no shipped file, is ''.
  """
  parts = pathlib.PurePath(path).with_suffix('').parts
  if 'configs' not in parts[:-1]:
    return ''
  last = len(parts) - 1 - parts[::-1].index('configs')
  words = parts[last + 1 :]
  if kind == 'sweep' and words[0] == SWEEPS:
    words = words[1:]
  name = '/'.join(words)
  return name if name in names(kind) else ''
