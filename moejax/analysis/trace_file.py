"""Trace files: the trace of one checkpoint as Parquet, one row for each token.

    import pandas
    pandas.read_parquet('runs/tiny/traces/00000100.parquet')

A row group is a batch. The columns, with E experts and k of them for a token:

  step        int64        optimiser steps behind the checkpoint
  domain      string       name of the validation set, or of the file
  document    int32        number of the document, over all domains
  position    int32        position that the model computes with
  token       int32        id in the vocabulary
  experts_N   int16[k]     experts of layer N, that with the largest weight
                           first; -1 for none
  weights_N   float32[k]   weights of their outputs; 0 for none
  dropped_N   bool[k]      whether the expert had no room for the token
  entropy_N   float32      entropy of the router's probabilities, nats
  logits_N    float32[E]   the router's logits, if they were asked for

N is the number of the layer in the model, from 0; dense layers have no columns.
So one layer can be read without the others. The rest of a `Trace`, and what was
traced, are JSON under the key `moejax_trace` of the file's metadata: `Header`.

A file is whole or absent. While it is written it has the name NAME.part. If the
disk becomes full, that file keeps all batches so far and can be read.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moejax.analysis.trace import Trace
from moejax.core import errors, table

KEY = b'moejax_trace'
VERSION = 1
# Columns of a layer by the field of `Trace` that they hold.
LAYER_COLUMNS = {
  'expert_TNK': 'experts',
  'weight_TNK': 'weights',
  'dropped_TNK': 'dropped',
  'entropy_TN': 'entropy',
  'logits_TNE': 'logits',
}
TOKEN_COLUMNS = {
  'document_T': 'document',
  'position_T': 'position',
  'token_T': 'token',
}


@dataclasses.dataclass(frozen=True)
class Header:
  """What a trace file says of itself, beside its rows.

  Attributes:
    step: optimiser steps behind the checkpoint.
    tokens_seen: tokens that the checkpoint was trained on; 0 if unknown.
    layers: numbers in the model of the layers with experts.
    num_experts: number of choices in a layer.
    domains: names of the domains, in their order.
    tokenizer: fingerprint of the tokenizer; '' for rows without text.
    model: fingerprint of the run: of all config keys that its weights depend
      on, and of the checkpoint that an imported model was read from.
    router: keys of the config of the routed layers, by dotted path.
    request: the text and the options, as JSON values; the same request gives
      the same rows.
    in_use: see `Trace`.
  """

  step: int
  tokens_seen: int
  layers: tuple[int, ...]
  num_experts: int
  domains: tuple[str, ...]
  tokenizer: str = ''
  model: str = ''
  router: dict[str, Any] = dataclasses.field(default_factory=dict)
  request: dict[str, Any] = dataclasses.field(default_factory=dict)
  in_use: tuple[tuple[int, ...], ...] = ()

  def to_json(self) -> str:
    """The header as JSON."""
    return json.dumps({'version': VERSION, **dataclasses.asdict(self)})

  @classmethod
  def from_json(cls, text: str | bytes) -> 'Header':
    """The inverse of `to_json`."""
    values = json.loads(text)
    # Files from before `in_use` are of layers that have all choices.
    in_use = tuple(map(tuple, values.pop('in_use', ())))
    names = {field.name for field in dataclasses.fields(cls)} - {'in_use'}
    lists = {name: tuple(values[name]) for name in ('layers', 'domains')}
    known = {name: values[name] for name in names} | lists
    return cls(**known, in_use=in_use)


class TraceFile:
  """A trace file, opened for reading.

  Attributes:
    path: the file.
    header: what the file says of itself.
    num_tokens: T, number of its rows.
    num_batches: number of its row groups.
  """

  def __init__(self, path: pathlib.Path | str):
    """Reads the header.

    Raises:
      InputError: there is no such file, or it is not a trace file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    self.path = pathlib.Path(path)
    try:
      self._file = parquet.ParquetFile(self.path)
    except OSError as error:
      # The text of pyarrow's error has the path twice.
      reason = os.strerror(error.errno) if error.errno else error
      raise errors.InputError(f'{self.path} cannot be read: {reason}') from None
    except pa.ArrowException as error:
      raise errors.InputError(f'{self.path} is not Parquet: {error}') from None
    text = (self._file.schema_arrow.metadata or {}).get(KEY)
    if text is None:
      raise errors.InputError(
        f'{self.path} is not a trace: its metadata has no {KEY.decode()}; '
        'moejax trace writes traces'
      )
    version = json.loads(text)['version']
    if version != VERSION:
      raise errors.InputError(
        f'{self.path} is a trace of version {version}, and this moejax reads '
        f'version {VERSION}: trace the checkpoint again'
      )
    self.header = Header.from_json(text)
    self.num_tokens = self._file.metadata.num_rows
    self.num_batches = self._file.num_row_groups

  def read(self, layers: Sequence[int] | None = None) -> Trace:
    """The whole trace.

    Args:
      layers: numbers of the layers to read; None for all. Columns of other
        layers are not read from the disk.

    Raises:
      InputError: a layer is not in the file.
    """
    kept = self._kept(layers)
    arrays = self._empty(kept)
    start = 0
    for batch in self.batches(kept):
      stop = start + len(batch.token_T)
      for field, array in arrays.items():
        array[start:stop] = getattr(batch, field)
      start = stop
    return self._trace(kept, arrays)

  def batches(self, layers: Sequence[int] | None = None) -> Iterator[Trace]:
    """The trace batch by batch, in memory for one batch; as `read`."""
    kept = self._kept(layers)
    fields = self._fields()
    names = ['domain', *TOKEN_COLUMNS.values()]
    names += [f'{LAYER_COLUMNS[f]}_{layer}' for f in fields for layer in kept]
    for group in range(self.num_batches):
      rows = self._file.read_row_group(group, columns=names)
      arrays = {
        field: rows[name].combine_chunks().to_numpy()
        for field, name in TOKEN_COLUMNS.items()
      }
      arrays['domain_T'] = self._domain_numbers(rows['domain'])
      for field in fields:
        name = LAYER_COLUMNS[field]
        by_layer = [_values(rows[f'{name}_{layer}']) for layer in kept]
        arrays[field] = np.stack(by_layer, axis=1)
      yield self._trace(kept, arrays)

  def _fields(self) -> list[str]:
    """The fields of `Trace` that the layers' columns hold."""
    first = self.header.layers[0]
    names = self._file.schema_arrow.names
    return [
      f for f, name in LAYER_COLUMNS.items() if f'{name}_{first}' in names
    ]

  def _kept(self, layers: Sequence[int] | None) -> tuple[int, ...]:
    known = self.header.layers
    for layer in layers or ():
      if layer not in known:
        raise table.unknown('layer', layer, known)
    return known if layers is None else tuple(layers)

  def _empty(self, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """Arrays for all tokens of the file, by the field of `Trace`."""
    count, schema = self.num_tokens, self._file.schema_arrow
    arrays = {field: np.empty(count, np.int32) for field in TOKEN_COLUMNS}
    arrays['domain_T'] = np.empty(count, np.int16)
    for field in self._fields():
      kind = schema.field(
        f'{LAYER_COLUMNS[field]}_{self.header.layers[0]}'
      ).type
      width = () if field == 'entropy_TN' else (kind.list_size,)
      item = kind if field == 'entropy_TN' else kind.value_type
      shape = (count, len(layers), *width)
      arrays[field] = np.empty(shape, item.to_pandas_dtype())
    return arrays

  def _domain_numbers(self, column: Any) -> np.ndarray:
    """domain_T of a column of names."""
    number = {name: i for i, name in enumerate(self.header.domains)}
    coded = column.combine_chunks()
    if not hasattr(coded, 'dictionary'):  # rewritten by another program
      coded = coded.dictionary_encode()
    place = [number[name] for name in coded.dictionary.to_pylist()]
    return np.asarray(place, np.int16)[coded.indices.to_numpy()]

  def _trace(
    self, layers: tuple[int, ...], arrays: dict[str, np.ndarray]
  ) -> Trace:
    header = self.header
    place = [header.layers.index(layer) for layer in layers]
    return Trace(
      step=header.step,
      tokens_seen=header.tokens_seen,
      layers=layers,
      num_experts=header.num_experts,
      domains=header.domains,
      in_use=tuple(header.in_use[n] for n in place if header.in_use),
      **arrays,
    )


def read(
  path: pathlib.Path | str, layers: Sequence[int] | None = None
) -> Trace:
  """The trace of a file; arguments and errors as of `TraceFile`."""
  return TraceFile(path).read(layers)


def _values(column: Any) -> np.ndarray:
  """A column of numbers as [T], or of lists of numbers as [T, k]."""
  array = column.combine_chunks()
  if not hasattr(array.type, 'list_size'):
    return array.to_numpy()
  flat = array.flatten().to_numpy(zero_copy_only=False)
  return flat.reshape(len(array), array.type.list_size)
