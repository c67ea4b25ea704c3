"""Python that the user wrote: config files and sweep files.

An error in such a file is the user's: it becomes one line with the place and
Python's message, and with `--trace` the stack from that file on.
"""

import importlib.util
import os
import pathlib
import sysconfig
import traceback
import types
from collections.abc import Callable
from typing import Any

from moejax.config import old_keys
from moejax.core import errors, table

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Where frames are not the user's: this package, the standard library, and what
# was installed.
_NOT_OWN = (
  PACKAGE,
  *(pathlib.Path(sysconfig.get_path(p)) for p in ('stdlib', 'purelib')),
)


def load(path: str, kind: str) -> types.ModuleType:
  """A Python file that the user names, imported from its place.

  Args:
    path: of the file.
    kind: what it is called in errors: config, sweep.

  Raises:
    InputError: there is no such file, it is something else, it cannot be read,
      or it raises.
  """
  _check_is_python(path, kind)
  name = f'moejax_{kind}_{pathlib.Path(path).stem}'
  spec = importlib.util.spec_from_file_location(name, path)
  if spec is None or spec.loader is None:
    raise errors.InputError(f'{kind} file {path!r} is not Python')
  module = importlib.util.module_from_spec(spec)
  call(path, spec.loader.exec_module, module)
  return module


def call(path: str, function: Callable[..., Any], *args: Any) -> Any:
  """What a function of the user's file returns.

  Raises:
    InputError: of the function itself; or any other error of it, with its
      place. The error is the cause, and its stack begins in the file.
  """
  try:
    return function(*args)
  except errors.InputError:
    raise
  except (Exception, SystemExit) as e:
    e = e.with_traceback(_from_file(e.__traceback__, path))
    raise errors.InputError(_line(e, path)) from e


def _line(e: BaseException, path: str) -> str:
  """The place and the error, such as `my.py:3: NameError: name 'x' is ...`."""
  if isinstance(e, SyntaxError):
    place, message = f'{_shown(e.filename or path)}:{e.lineno or 1}', e.msg
  else:
    place, message = path, _words(e)
    for frame in traceback.extract_tb(e.__traceback__):
      if not _is_ours(frame.filename):
        place = f'{_shown(frame.filename)}:{frame.lineno}'
  words = ' '.join(str(message).split())
  name = type(e).__name__
  line = f'{place}: {name}: {words}' if words else f'{place}: {name}'
  return line + old_keys.hint(words)


def _words(e: BaseException) -> Any:
  """What an error says; without the quotes that KeyError puts around it.

  A locked ConfigDict raises an AttributeError of a KeyError, with a hint.
  """
  first = e.args[0] if e.args else e
  if isinstance(first, BaseException) and first is not e:
    return _words(first)
  return first if isinstance(e, KeyError) else e


def _shown(filename: str) -> str:
  """A path as a user would write it: short if it is below this folder."""
  below = os.path.relpath(filename)
  return filename if below.startswith(os.pardir) else below


def _is_ours(filename: str) -> bool:
  """Whether a frame is of code that the user did not write."""
  file = pathlib.Path(filename)
  if not file.is_file():
    return True  # <frozen importlib>, <string>
  return any(file.resolve().is_relative_to(folder) for folder in _NOT_OWN)


def _from_file(
  tb: types.TracebackType | None, path: str
) -> types.TracebackType | None:
  """The stack from the user's file on; nothing if it is not in the stack."""
  file = os.path.abspath(path)
  while tb and os.path.abspath(tb.tb_frame.f_code.co_filename) != file:
    tb = tb.tb_next
  return tb


def _check_is_python(path: str, kind: str) -> None:
  """Raises InputError that says what a path is, unless it is a .py file."""
  file = pathlib.Path(path)
  if not path:
    raise errors.InputError(f'no {kind} file is named: the path is empty')
  if file.is_dir():
    names = ', '.join(p.name for p in sorted(file.glob('*.py')) if p.is_file())
    beside = f'; in it are {names}' if names else ', without any .py file'
    raise errors.InputError(f'{path!r} is a folder, not a {kind} file{beside}')
  if not file.exists():
    raise _missing(path, kind)
  if not file.is_file():
    raise errors.InputError(f'{path!r} is no regular file, so no {kind} file')
  if file.suffix != '.py':
    raise errors.InputError(
      f'{path!r} is not a {kind} file: those are Python and end in .py'
    )
  try:
    file.read_bytes()
  except OSError as e:
    raise errors.InputError(
      f'{kind} file {path!r} cannot be read: {e.strerror}'
    ) from e


def _missing(path: str, kind: str) -> errors.InputError:
  file = pathlib.Path(path)
  if file.is_symlink():
    return errors.InputError(
      f'{kind} file {path!r} is a link to {os.readlink(path)!r}, which is not '
      'there'
    )
  longer = file.with_name(f'{file.name}.py')
  if longer.is_dir():
    return errors.InputError(
      f'no file {path!r}, and {os.fspath(longer)!r} is a folder, not a {kind} '
      'file'
    )
  if longer.is_file():
    return errors.InputError(
      f'no file {path!r}; did you mean {path + ".py"!r}?'
    )
  near = sorted(p.stem for p in file.parent.glob('*.py') if p.is_file())
  if not near:
    return errors.InputError(f'no {kind} file {path!r}, nor any beside it')
  unknown = table.unknown(f'{kind} file', file.stem, near)
  return errors.InputError(f'no file {path!r}: {unknown}')
