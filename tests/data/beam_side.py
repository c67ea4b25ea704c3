"""Packs a text with Apache Beam; run in a Python that has it.

  python tests/data/beam_side.py FOLDER FLAGS [STEPS]

FOLDER has texts/ and gets caches/. STEPS are names of some below, in their
order, joined by commas.
"""

import functools
import pathlib
import sys

from moejax.data import beam_cache, cache_writer, files, stepped, vocab
from moejax.data.fill_in_middle import FillInMiddle, Rearranged
from moejax.data.steps.exact_duplicates import ExactDuplicates
from moejax.data.steps.length import Length
from moejax.data.steps.quality import Quality

# Half of the training documents are rearranged.
REARRANGE = functools.partial(
  Rearranged,
  config=FillInMiddle(rate=0.5, spm=0.5, ids=(250, 251, 252)),
  place='data.sources.code.fill_in_middle',
)
STEPS = {
  'length': Length(min_characters=20, max_characters=1000),
  'exact_duplicates': ExactDuplicates(),
  'quality': Quality(min_words=12, min_word_length=0, min_words_with_letter=0),
}


def text(folder: pathlib.Path, steps: str = ''):
  """The files of FOLDER/texts, or what the steps keep of them."""
  own = files.Files(
    str(folder / 'texts'), bad_lines='skip', rearrange=REARRANGE
  )
  named = {name: STEPS[name] for name in filter(None, steps.split(','))}
  return stepped.with_steps(own, named)


def request(folder: pathlib.Path, **options) -> cache_writer.Request:
  """Files of eight rows."""
  return cache_writer.Request(
    vocab.SentencePiece(), 16, folder, rows_per_shard=8, **options
  )


def main(folder: str, flags: str, steps: str = '') -> None:
  """Packs both splits."""
  path = pathlib.Path(folder)
  own = text(path, steps)
  for split in own.splits:
    beam_cache.make(own, split, request(path / 'caches'), flags)


if __name__ == '__main__':
  main(*sys.argv[1:])
