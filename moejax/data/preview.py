"""The first rows of a run's data, from caches or from the text itself."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from moejax.data import (
  batch,
  build,
  cache_writer,
  config,
  encoding,
  features,
  seqio_bridge,
)
from moejax.data.images.vocab import ImageVocab


class Preview(NamedTuple):
  """Rows as a training step reads them.

  Attributes:
    origin: where the rows are from, as text for the user.
    domains: the name of the domain of each row.
    rows: the rows.
  """

  origin: str
  domains: list[str]
  rows: batch.Batch


def first_rows(
  data_config: config.DataConfig, batch_size: int, seed: int, count: int
) -> Preview | None:
  """The first rows that training reads; None if they are no text.

  If all texts are packed, these are the rows of the first steps. Otherwise
  `count` rows are packed from the beginning of each domain's text, and nothing
  is written.

  Args:
    data_config: names the text.
    batch_size: rows of a training step.
    seed: of the run.
    count: number of rows.

  Raises:
    InputError: a bad document, or a text that cannot be read.
  """
  sources = build.text_sources(data_config)
  request = build.packing_request(data_config)
  if not all(source.has_text for source in sources.values()):
    return None
  texts = [(text, split) for text in sources.values() for split in text.splits]
  if all(
    cache_writer.is_made(text, split, text.encoded(split, request))
    for text, split in texts
  ):
    train = build.build(data_config, batch_size, seed).train
    steps = range(-(-count // batch_size))
    first = _joined([train.batch(step) for step in steps], count)
    domain_B, _ = train.locate(np.arange(count))
    names = [train.domains[domain] for domain in domain_B]
    return Preview('the first rows of training, from the cache', names, first)
  by_domain = {
    name: _from_text(source, source.encoded('train', request), count)
    for name, source in sources.items()
  }
  names = [
    name for name, rows in by_domain.items() for _ in range(len(rows.target_BL))
  ]
  origin = 'the beginning of the text, which is not packed yet'
  return Preview(origin, names, _joined([*by_domain.values()], len(names)))


def _joined(batches: list[batch.Batch], count: int) -> batch.Batch:
  """The first `count` rows of several batches, without their images."""
  fields = [key for key in batches[0].__dict__ if key != 'images']
  return batch.Batch(**{
    key: np.concatenate([getattr(b, key) for b in batches])[:count]
    for key in fields
  })


def _from_text(
  source: cache_writer.TextSource, request: cache_writer.Request, count: int
) -> batch.Batch:
  """The first rows of a text; fewer if the text is short."""
  blocks = request.packing.pack(
    (ids_T for ids_T, _ in _documents(source, request)),
    request.length,
    rows_per_block=count,
    start=features.Position(),
  )
  length = request.length
  rows, _ = next(blocks, (features.Rows(*np.zeros((2, 0, length), int)), None))
  if isinstance(request.vocab, ImageVocab):
    rows = request.vocab.shown(rows)
  return features.expand(*rows, request.vocab.first_id)


def _documents(
  source: cache_writer.TextSource, request: cache_writer.Request
) -> Iterator[seqio_bridge.Document]:
  texts = source.stream('train')
  if texts is None:
    documents = source.documents(
      'train', request.vocab, skip=0, note=lambda _: None
    )
    return itertools.islice(documents, request.max_documents or None)
  some = itertools.islice(texts, request.max_documents or None)
  return encoding.documents(some, request.vocab, processes=1)
