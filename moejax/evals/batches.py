"""Batches of validation rows, on the devices."""

import itertools
from collections.abc import Iterator

from moejax.data import loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.model.build import Model
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes

ROWS = 32  # rows of a batch, unless the mesh asks for more


def rows_per_batch(model: Model, rows: int = ROWS) -> int:
  """`rows`, or the next multiple of the number of shards of a batch."""
  shards = meshes.batch_size(model.mesh)
  return -(-rows // shards) * shards


def num_eval_batches(
  model: Model, reader: RowReader, limit: int, rows: int = ROWS
) -> int:
  """How many batches `eval_batches` gives."""
  num = -(-reader.num_rows // rows_per_batch(model, rows))
  return min(num, limit) if limit else num


def eval_batches(
  model: Model, reader: RowReader, limit: int, rows: int = ROWS
) -> Iterator[Batch]:
  """The first `limit` batches of a validation set (0: all of them).

  Args:
    model: the network, on its mesh.
    reader: the rows.
    limit: how many batches.
    rows: rows of a batch; see `rows_per_batch`.
  """
  rows = rows_per_batch(model, rows)
  local_rows = hosts.my_rows(rows, model.mesh)
  batches = loader.eval_batches(reader, rows, local_rows)
  for batch in itertools.islice(batches, limit or None):
    yield hosts.put_rows(batch, model.mesh, local_rows, rows)
