"""Caches of the same text that were made with other keys, for error lines.

A machine that trains from copied caches has no text. If its config names
another tokenizer than the caches were made with, no cache fits, and the text
cannot be read. The line for the user then has to name the key that differs.
"""

import json
import pathlib
from typing import Any

from moejax.core import errors
from moejax.data import cache, cache_writer

# What the rows depend on besides the text, and the config key that sets it.
_KEYS = {
  'vocab': 'data.vocab',
  'length': 'data.sequence_length',
  'max_documents': 'data.max_documents',
  'packing': 'data.packing',
}
# The tokenizer of conversations stands for their template and images too.
_OF_CONVERSATIONS = {'vocab': 'data.vocab, data.chat or data.images'}


def explained(
  error: errors.InputError,
  text: cache_writer.TextSource,
  split: str,
  request: cache_writer.Request,
) -> errors.InputError:
  """The error that a text cannot be read, with the key that hides its cache.

  Args:
    error: why the rows could not be made.
    text: the text.
    split: 'train' or 'validation'.
    request: how its rows were to be made.
  """
  try:
    spec, _ = cache_writer.spec_and_path(text, split, request)
  except errors.InputError:
    return error
  for path in sorted(request.folder.glob(f'{text.name}-{split}-*')):
    other = _spec_of(path)
    differing = {
      key
      for key in {*spec, *other}
      if json.dumps(spec.get(key)) != json.dumps(other.get(key))
    }
    if other and differing and differing <= _KEYS.keys():
      names = {**_KEYS, **(_OF_CONVERSATIONS if text.masked else {})}
      keys = ' and '.join(names[key] for key in sorted(differing))
      return errors.InputError(
        f'{error}; {path} has rows of this text that were made with another '
        f'{keys}: to use them, set it as it was'
      )
  return error


def _spec_of(path: pathlib.Path) -> dict[str, Any]:
  """The spec of a cache; empty if the folder is none."""
  try:
    return cache.Meta.from_json((path / cache.META).read_text()).spec
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return {}
