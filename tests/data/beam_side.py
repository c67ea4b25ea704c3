"""Packs a text with Apache Beam; run in a Python that has it.

  python tests/data/beam_side.py FOLDER FLAGS

FOLDER has texts/ and gets caches/.
"""

import pathlib
import sys

from moejax.data import beam_cache, cache_writer, files, vocab


def request(folder: pathlib.Path, **options) -> cache_writer.Request:
  """Files of eight rows."""
  return cache_writer.Request(
    vocab.SentencePiece(), 16, folder, rows_per_shard=8, **options
  )


def main(folder: str, flags: str) -> None:
  """Packs both splits."""
  path = pathlib.Path(folder)
  own = files.Files(str(path / 'texts'), bad_lines='skip')
  for split in own.splits:
    beam_cache.make(own, split, request(path / 'caches'), flags)


if __name__ == '__main__':
  main(*sys.argv[1:])
