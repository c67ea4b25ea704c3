"""Reads the file of a tokenizer."""

from etils import epath

from moejax.core import errors, files


def read(path: str) -> bytes:
  """The bytes of the file, which may be on an object store.

  Raises:
    InputError: it cannot be read.
  """
  file = epath.Path(path).expanduser()
  if (reason := files.no_file(file)) and not file.is_dir():
    raise errors.InputError(
      f'data.vocab.path={path!r} is {reason}, not a file; copy it to a file'
    )
  try:
    return file.read_bytes()
  except OSError as e:
    raise errors.InputError(
      f'data.vocab.path={path!r} cannot be read: {e.strerror or e}'
    ) from None
