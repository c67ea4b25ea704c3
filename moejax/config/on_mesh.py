"""Whether the rows of a run divide over a mesh, before anything is built."""

import jax

from moejax.config.run import Run
from moejax.parallel import chunking, context
from moejax.parallel import mesh as meshes


def check(run: Run, mesh: jax.sharding.Mesh) -> None:
  """Raises InputError unless number and length of a run's rows fit the mesh."""
  rows = run.train.batch_size // run.train.micro_batches
  meshes.check_rows(rows, mesh, 'train.batch_size / train.micro_batches')
  chunking.check(run.model.token_chunks, rows, mesh, 'model.token_chunks')
  order = run.model.context_parallel.order
  length = run.data.sequence_length
  context.check_length(length, mesh, order, 'data.sequence_length')
