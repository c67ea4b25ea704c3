"""A folder of the statistics of experts, one file for each domain of a text.

  statistics/code.npz
  statistics/index.json   the domains, their files, and the text; written last

The statistics of a checkpoint are collected once for any number of methods.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, files

INDEX = 'index.json'


def exists(folder: epath.PathLike) -> bool:
  """Whether a folder has statistics; a part of them does not count."""
  return (epath.Path(folder) / INDEX).exists()


def save(
  folder: epath.PathLike,
  statistics: Mapping[str, ExpertStatistics],
  text: Mapping[str, Any],
) -> None:
  """Writes the statistics of all domains.

  Args:
    folder: made if it does not exist.
    statistics: by domain.
    text: what they were collected of, as JSON values; see `load`.

  Raises:
    InputError: the folder cannot be written.
  """
  folder = epath.Path(folder)
  files.check_writable(folder, 'the folder of statistics')
  names = {}
  for number, (domain, one) in enumerate(statistics.items()):
    # A domain may be named by the path of a file.
    plain = re.sub(r'[^\w.-]+', '_', domain).strip('._')[-40:]
    names[domain] = f'{number:02d}_{plain}.npz'
    one.save(folder / names[domain])
  index = {'domains': names, 'text': dict(text)}
  files.atomic_write_json(folder / INDEX, index)


def load(
  folder: epath.PathLike,
  checkpoint: str,
  tokenizer: str,
  text: Mapping[str, Any] | None = None,
) -> tuple[dict[str, ExpertStatistics], dict[str, Any]]:
  """Reads the statistics of all domains.

  Args:
    folder: of `save`.
    checkpoint: fingerprint of the weights that they must be of.
    tokenizer: fingerprint of the model's tokenizer, '' if it has none;
      statistics of rows without text have none.
    text: what they must have been collected of; None takes any text.

  Returns:
    The statistics by domain, and their text.

  Raises:
    InputError: the folder is damaged, or its statistics are of another
      checkpoint, tokenizer or text.
  """
  folder = epath.Path(folder)
  try:
    index = json.loads((folder / INDEX).read_text())
    names, known = dict(index['domains']), dict(index['text'])
  except (OSError, ValueError, TypeError, KeyError):
    raise errors.InputError(
      f'{folder / INDEX} is not an index of statistics; collect them anew in '
      'another folder'
    ) from None
  # As it is read back: a tuple becomes a list.
  wanted = known if text is None else json.loads(json.dumps(dict(text)))
  if wanted != known:
    differing = sorted(
      key for key in known | wanted if known.get(key) != wanted.get(key)
    )
    raise errors.InputError(
      f'the statistics in {folder} were collected with other '
      f'{", ".join(differing)}; name another folder, or leave out the flags of '
      'the text to use them'
    )
  own = tokenizer if tokenizer and known.get('tokenizer') else None
  statistics = {
    domain: ExpertStatistics.load(folder / name, checkpoint, own)
    for domain, name in names.items()
  }
  return statistics, known
