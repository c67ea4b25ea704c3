"""The vocabulary of a model that comes with a tokenizer.json."""

import json
import pathlib
from typing import Any

from moejax.convert import folder
from moejax.core import errors
from moejax.data.vocab import HfTokenizer

TOKENIZER, SETTINGS = 'tokenizer.json', 'tokenizer_config.json'


def vocab(path: pathlib.Path, vocab_size: int) -> HfTokenizer | None:
  """What `data.vocab` is for the model in a folder; None without tokenizer.

  Args:
    path: the folder.
    vocab_size: of the model.

  Raises:
    InputError: the tokenizer cannot be read, or has more ids than the model.
  """
  file = path / TOKENIZER
  if not file.is_file():
    return None
  settings = _read(path / SETTINGS)
  found = HfTokenizer(
    path=str(file.resolve()),
    eos_token=_token(settings, path, 'eos'),
    shift=0,
    start_token=_token(settings, path, 'bos')
    if settings.get('add_bos_token', True)
    else '',
  )
  if found.size > vocab_size:
    raise errors.InputError(
      f'{file} has {found.size} ids, but the model of its config.json has '
      f'vocab_size={vocab_size}: it is the tokenizer of another model'
    )
  return found


def _token(settings: dict[str, Any], path: pathlib.Path, kind: str) -> str:
  """The text of a special token: by its name, or by its id in config.json."""
  named = settings.get(f'{kind}_token')
  if isinstance(named, dict):
    named = named.get('content')
  if named:
    return named
  wanted = _read(path / folder.CONFIG).get(f'{kind}_token_id')
  wanted = wanted[0] if isinstance(wanted, list) and wanted else wanted
  for token in _read(path / TOKENIZER).get('added_tokens', ()):
    if token.get('id') == wanted:
      return token['content']
  return ''


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as e:
    raise errors.InputError(f'{path} is not JSON: {e}') from None
