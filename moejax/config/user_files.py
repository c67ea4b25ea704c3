"""Python that the user wrote: config files and sweep files.

An error in such a file becomes an InputError of one line, with the place and
Python's message; `--trace` also shows the stack from that file on.
"""

import importlib.abc
import importlib.util
import os
import pathlib
import re
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable
from typing import Any

from moejax.config import old_keys
from moejax.core import errors, shipped, table

PACKAGE = shipped.PACKAGE
# Folders of code that the user did not write: this package, the standard
# library, and installed packages.
_NOT_OWN = (
  PACKAGE,
  *(pathlib.Path(sysconfig.get_path(p)) for p in ('stdlib', 'purelib')),
)


class Loader(importlib.abc.InspectLoader):
  """Imports a text that was read, and neither reads nor writes bytecode.

  Python takes the bytecode in __pycache__ for that of the file if both were
  written in the same second and the text is as long as before, which is so for
  a file that a program edits, one digit at a time.
  """

  def __init__(self, text: bytes, path: str):
    """Imports `text`, which was read from `path`."""
    self._text, self._path = text, path

  def module(self, name: str) -> types.ModuleType:
    """A module of that name, not yet executed."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(
      name, self, origin=self._path
    )
    module.__file__ = self._path
    return module

  def get_source(self, fullname: str) -> str:
    del fullname
    return importlib.util.decode_source(self._text)

  def get_code(self, fullname: str) -> types.CodeType:
    del fullname
    return self.source_to_code(self._text, self._path)


def load(path: str, kind: str) -> types.ModuleType:
  """A Python file that the user names, imported from its place.

  Args:
    path: path of the file, or a name as `shipped.find` takes it.
    kind: word for the file in errors: config, sweep.

  Raises:
    InputError: the file does not exist, is not Python, cannot be read, or
      raises an error.
  """
  path = shipped.find(path, kind)
  text = read(path, kind)
  name = f'moejax_{kind}_{pathlib.Path(path).stem}'
  loader = Loader(text, os.path.abspath(path))
  module = loader.module(name)
  call(path, loader.exec_module, module)
  return module


def call(path: str, function: Callable[..., Any], *args: Any) -> Any:
  """Calls a function of the user's file, and returns its result.

  Args:
    path: of the file, as `load` takes it.
    function: to be called, and
    *args: its arguments.

  Raises:
    InputError: the function raised it, or raised another error, which is its
      cause. The message has the place of that error, whose stack begins in the
      user's file.
  """
  try:
    return function(*args)
  except errors.InputError as e:
    tb = _from_file(e.__traceback__, path)
    places = [
      f'{_shown(frame.filename)}:{frame.lineno}'
      for frame in traceback.extract_tb(tb)
      if not _is_ours(frame.filename)
    ]
    # An error in a file that this one loads has the place there already.
    if not places or re.match(r'\S+\.py:', str(e)):
      raise
    raise errors.InputError(f'{places[-1]}: {e}') from e
  except (Exception, SystemExit) as e:
    e = e.with_traceback(_from_file(e.__traceback__, path))
    raise errors.InputError(_line(e, path)) from e


def caller() -> str:
  """The place in the user's file that has called this package: `my.py:3`.

  Returns:
    '' if no file of the user has called it.
  """
  frame: types.FrameType | None = sys._getframe()
  while frame is not None:
    if not _is_ours(frame.f_code.co_filename):
      return f'{_shown(frame.f_code.co_filename)}:{frame.f_lineno}'
    frame = frame.f_back
  return ''


def _line(e: BaseException, path: str) -> str:
  """One line on an error: `my.py:3: NameError: name 'x' is not defined`."""
  if isinstance(e, SyntaxError):
    place, message = f'{_shown(e.filename or path)}:{e.lineno or 1}', e.msg
  else:
    place, message = path, _message(e)
    for frame in traceback.extract_tb(e.__traceback__):
      if not _is_ours(frame.filename):
        place = f'{_shown(frame.filename)}:{frame.lineno}'
  words = ' '.join(str(message).split())
  name = type(e).__name__
  line = f'{place}: {name}: {words}' if words else f'{place}: {name}'
  return line + old_keys.hint(words)


def _message(e: BaseException) -> Any:
  """The message of an error, without the quotes that KeyError puts around it.

  A ConfigDict raises an AttributeError whose argument is a KeyError with
  a hint; the message is that of the KeyError.
  """
  first = e.args[0] if e.args else e
  if isinstance(first, BaseException) and first is not e:
    return _message(first)
  return first if isinstance(e, KeyError) else e


def _shown(filename: str) -> str:
  """A path as a user would write it: relative if below the current folder."""
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
  """The stack from the user's file on; None if the file is not in it."""
  file = os.path.abspath(path)
  while tb and os.path.abspath(tb.tb_frame.f_code.co_filename) != file:
    tb = tb.tb_next
  return tb


def read(path: str, kind: str) -> bytes:
  """The text of a Python file.

  Args:
    path: of the file.
    kind: word for the file in errors: config, sweep, plugin.

  Raises:
    InputError: it is no .py file, or cannot be read.
  """
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
    return file.read_bytes()
  except OSError as e:
    raise errors.InputError(
      f'{kind} file {path!r} cannot be read: {e.strerror}'
    ) from e


def _missing(path: str, kind: str) -> errors.InputError:
  """The error for a path that does not exist, with the nearest name."""
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
  if name := shipped.name_in(path, kind):
    return errors.InputError(
      f'no file {path!r} here; moejax ships it: --{kind}={name}'
    )
  near = sorted(p.stem for p in file.parent.glob('*.py') if p.is_file())
  if not file.suffix and not file.is_absolute():
    return table.unknown(kind, path, {*near, *shipped.names(kind)})
  if not near:
    return errors.InputError(f'no {kind} file {path!r}, nor any beside it')
  unknown = table.unknown(f'{kind} file', file.stem, near)
  return errors.InputError(f'no file {path!r}: {unknown}')
