"""Reads the file of a tokenizer."""

from etils import epath

from moejax.core import errors


def read(path: str) -> bytes:
  """The bytes of the file, which may be on an object store.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return epath.Path(path).expanduser().read_bytes()
  except OSError as e:
    raise errors.InputError(
      f'data.vocab.path={path!r} cannot be read: {e.strerror or e}'
    ) from None
