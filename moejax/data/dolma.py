"""Dolma: files of the format of AI2's corpora, downloaded beforehand.

A line is a JSON object with the text and where it is from
(arXiv 2402.00159, and the toolkit `dolma`):

  {"id": "a1", "text": "Some words", "source": "common-crawl",
   "added": "2023-04-11T09:57:03.044Z", "created": "2020-01-17T12:48:45Z",
   "version": "v0", "metadata": {"url": "http://a.example"}}

Files are named .json.gz, .jsonl.gz, .jsonl.zst or .jsonl. The hub has a list of
their addresses in place of rows, so they are read from $DOLMA_DIR.
"""

import dataclasses
import functools
import os

from moejax.core import errors
from moejax.data import files, patterns

FOLDER = 'DOLMA_DIR'


@dataclasses.dataclass(frozen=True)
class Dolma(files.Files):
  """The documents of the folder, glob or bucket that $DOLMA_DIR names.

  Lines that hold no text are left out and counted. One document in a hundred is
  held out for validation.
  """

  pattern: str = ''
  bad_lines: str = 'skip'
  fraction: float = 0.01
  label: str = 'dolma'
  place: str = 'data.sources.dolma'

  name = domain = 'dolma'

  @functools.cached_property
  def _to_train_on(self) -> patterns.Matches:
    """The files of $DOLMA_DIR.

    Raises:
      InputError: the variable is not set, or names no file of text.
    """
    folder = os.environ.get(FOLDER, '')
    if not folder:
      raise errors.InputError(
        f'dolma is read from the folder that ${FOLDER} names, which is not '
        'set: download files of Dolma there, or set data.sources.dolma.files'
      )
    return patterns.find(f'${FOLDER}', folder)
