"""Validation rows on the devices."""

from collections.abc import Iterator

from moejax.data import loader
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.model.build import Model
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes

ROWS = 32


def eval_batches(
  model: Model, reader: RowReader, limit: int
) -> Iterator[Batch]:
  """The first `limit` batches of a validation set (0: all of them)."""
  parts = meshes.batch_size(model.mesh)
  rows = -(-ROWS // parts) * parts
  mine = hosts.my_rows(rows, model.mesh)
  for index, batch in enumerate(loader.eval_batches(reader, rows, mine)):
    if limit and index >= limit:
      return
    yield hosts.put_rows(batch, model.mesh, mine, rows)
