"""Packs a text with Apache Beam; run in a Python that has it.

  python tests/data/beam_side.py FOLDER FLAGS

FOLDER has texts/ and gets caches/.
"""

import functools
import pathlib
import sys

from moejax.data import beam_cache, cache_writer, files, vocab
from moejax.data.fill_in_middle import FillInMiddle, Rearranged

# Half of the training documents are rearranged.
REARRANGE = functools.partial(
  Rearranged,
  config=FillInMiddle(rate=0.5, spm=0.5, ids=(250, 251, 252)),
  place='data.sources.code.fill_in_middle',
)


def text(folder: pathlib.Path) -> files.Files:
  """The files of FOLDER/texts."""
  return files.Files(
    str(folder / 'texts'), bad_lines='skip', rearrange=REARRANGE
  )


def request(folder: pathlib.Path, **options) -> cache_writer.Request:
  """Files of eight rows."""
  return cache_writer.Request(
    vocab.SentencePiece(), 16, folder, rows_per_shard=8, **options
  )


def main(folder: str, flags: str) -> None:
  """Packs both splits."""
  path = pathlib.Path(folder)
  own = text(path)
  for split in own.splits:
    beam_cache.make(own, split, request(path / 'caches'), flags)


if __name__ == '__main__':
  main(*sys.argv[1:])
