"""Batches of validation rows, on the devices."""

from collections.abc import Iterator

from moejax.data import loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.model.build import Model
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes

ROWS = 32  # rows of a batch, unless the mesh asks for more


def _rows(model: Model) -> int:
  """ROWS, or the next multiple of the number of shards of a batch."""
  shards = meshes.batch_size(model.mesh)
  return -(-ROWS // shards) * shards


def num_eval_batches(model: Model, reader: RowReader, limit: int) -> int:
  """How many batches `eval_batches` gives."""
  num = -(-reader.num_rows // _rows(model))
  return min(num, limit) if limit else num


def eval_batches(
  model: Model, reader: RowReader, limit: int
) -> Iterator[Batch]:
  """The first `limit` batches of a validation set (0: all of them)."""
  rows = _rows(model)
  local_rows = hosts.my_rows(rows, model.mesh)
  batches = loader.eval_batches(reader, rows, local_rows)
  for index, batch in enumerate(batches):
    if limit and index >= limit:
      return
    yield hosts.put_rows(batch, model.mesh, local_rows, rows)
