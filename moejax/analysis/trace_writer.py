"""TraceWriter: writes a trace file batch by batch.

A file is whole or absent. While it is written it has the name NAME.part. If the
disk becomes full, that file keeps all batches so far and can be read.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.analysis import trace_file
from moejax.analysis.full_disk import ReservedFile
from moejax.analysis.trace import Trace
from moejax.core import errors, files

# Bytes in the index of a file for each batch and column, at most; about 110.
_INDEX_BYTES = 300


def part_of(path: pathlib.Path) -> pathlib.Path:
  """The name of a trace file while it is written."""
  return path.with_name(f'{path.name}.part')


class TraceWriter:
  """Writes one trace file, batch by batch, as a context manager.

  Example:
    with TraceWriter(path, header) as writer:
      for batch in traces:
        writer.add(batch)

  At the end of the block the file gets its name. After an error in the block it
  is removed, unless the disk was full.
  """

  def __init__(self, path: pathlib.Path, header: trace_file.Header):
    """Makes the file.

    Args:
      path: the file; one that is there is replaced at the end.
      header: what the file says of itself.
    """
    self.path = path
    self.tokens = 0
    self._batches = 0
    self._is_cut = False  # whether the file ends early, and can be read
    self._header = header
    self._header_bytes = len(header.to_json())
    self._writer: Any = None
    self._file = ReservedFile(part_of(path))

  def __enter__(self) -> 'TraceWriter':
    return self

  def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
    try:
      if error is None:
        self._close()
    finally:
      self._file.close()
      if not self._is_cut and (error is not None or self._writer is None):
        self._file.path.unlink(missing_ok=True)
    if error is None:
      if self._writer is None:
        raise ValueError(f'{self.path}: there is no batch to write')
      os.replace(self._file.path, self.path)
      files.sync_folder(self.path.parent)

  def add(self, trace: Trace) -> None:
    """Writes the tokens of a batch as one row group; none for no tokens.

    Raises:
      StoppedError: the disk is full; what was written stays and can be read.
      OSError: the disk fails.
    """
    if not len(trace.token_T):
      return
    from pyarrow import parquet

    rows = _table(trace, self._header)
    if self._writer is None:
      self._writer = parquet.ParquetWriter(
        self._file, rows.schema, **_options(rows.schema.names)
      )
    self._batches += 1
    index = _INDEX_BYTES * rows.num_columns * self._batches
    self._file.reserve(2 * rows.nbytes + index + 4 * self._header_bytes)
    self._writer.write_table(rows, row_group_size=rows.num_rows)
    self.tokens += rows.num_rows
    if self._file.is_full:
      self._close()
      self._is_cut = True
      raise errors.StoppedError(
        f'the disk of {self.path.parent} is full: {self._file.path.name} there '
        f'has the {self.tokens:,} tokens so far and can be read; make room, '
        'and run the same command to trace the checkpoint anew'
      )

  def _close(self) -> None:
    if self._writer is not None and self._writer.is_open:
      self._writer.close()


def _options(names: Sequence[str]) -> dict[str, Any]:
  """Options of pyarrow's writer.

  Ids, numbers and names repeat, and are written by dictionaries. Weights,
  entropies and logits do not: their bytes are split into streams instead.
  """
  kinds = ('weights_', 'entropy_', 'logits_')
  real = [name for name in names if name.startswith(kinds)]
  lists = ('weights_', 'logits_')
  leaf = {
    name: f'{name}.list.element' if name.startswith(lists) else name
    for name in real
  }
  return {
    'compression': 'zstd',
    'compression_level': 1,
    'write_statistics': False,
    'use_dictionary': [
      f'{name}.list.element' if name.startswith('experts_') else name
      for name in names
      if name not in real and not name.startswith('dropped_')
    ],
    'use_byte_stream_split': [leaf[name] for name in real],
  }


def _table(trace: Trace, header: trace_file.Header) -> Any:
  """The rows of a batch as an Arrow table, without copies where it can be."""
  import pyarrow as pa

  count = len(trace.token_T)
  names = pa.array(header.domains, pa.string())
  columns = {
    'step': pa.array(np.full(count, header.step, np.int64)),
    'domain': pa.DictionaryArray.from_arrays(
      pa.array(trace.domain_T, pa.int16()), names
    ),
  }
  for field, name in trace_file.TOKEN_COLUMNS.items():
    columns[name] = pa.array(getattr(trace, field), pa.int32())
  for field, name in trace_file.LAYER_COLUMNS.items():
    values = getattr(trace, field)
    if values is None:
      continue
    for n, layer in enumerate(header.layers):
      columns[f'{name}_{layer}'] = _column(pa, values[:, n])
  fields = [
    pa.field(name, column.type, nullable=False)
    for name, column in columns.items()
  ]
  schema = pa.schema(fields, metadata={trace_file.KEY: header.to_json()})
  return pa.Table.from_arrays(list(columns.values()), schema=schema)


def _column(pa: Any, values: np.ndarray) -> Any:
  """A column of numbers [T], or of lists of numbers [T, k]."""
  flat = pa.array(np.ascontiguousarray(values).reshape(-1))
  if values.ndim == 1:
    return flat
  item = pa.field('element', flat.type, nullable=False)
  kind = pa.list_(item, values.shape[1])
  return pa.FixedSizeListArray.from_arrays(flat, type=kind)
