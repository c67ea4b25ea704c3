"""Validation rows on the devices."""

from collections.abc import Iterator

from moejax.data import loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.model.build import Model
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes

ROWS = 32


def _rows(model: Model) -> int:
  """Rows of a batch: ROWS, or the next multiple of the mesh's parts."""
  parts = meshes.batch_size(model.mesh)
  return -(-ROWS // parts) * parts


def num_eval_batches(model: Model, reader: RowReader, limit: int) -> int:
  """How many batches `eval_batches` gives."""
  num = -(-reader.num_rows // _rows(model))
  return min(num, limit) if limit else num


def eval_batches(
  model: Model, reader: RowReader, limit: int
) -> Iterator[Batch]:
  """The first `limit` batches of a validation set (0: all of them)."""
  rows = _rows(model)
  mine = hosts.my_rows(rows, model.mesh)
  for index, batch in enumerate(loader.eval_batches(reader, rows, mine)):
    if limit and index >= limit:
      return
    yield hosts.put_rows(batch, model.mesh, mine, rows)
