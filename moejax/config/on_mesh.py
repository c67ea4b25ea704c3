"""Whether the rows of a run divide over a mesh, before anything is built."""

import jax

from moejax.config.run import Run
from moejax.core import errors
from moejax.model import pipeline
from moejax.parallel import chunking, context
from moejax.parallel import mesh as meshes


def check(run: Run, mesh: jax.sharding.Mesh) -> None:
  """Raises InputError unless number and length of a run's rows fit the mesh.

  And unless the run trains what a pipeline can.
  """
  _check_pipeline(run, mesh)
  rows = run.train.batch_size // run.train.micro_batches
  meshes.check_rows(rows, mesh, 'train.batch_size / train.micro_batches')
  pipeline.check_rows(run.model, mesh, rows)
  chunking.check(run.model.token_chunks, rows, mesh, 'model.token_chunks')
  order = run.model.context_parallel.order
  length = run.data.sequence_length
  context.check_length(length, mesh, order, 'data.sequence_length')


def _check_pipeline(run: Run, mesh: jax.sharding.Mesh) -> None:
  """Raises InputError for training that goes through no pipeline."""
  stages = mesh.shape[meshes.STAGE]
  if stages == 1:
    return
  for key, value, off in (
    ('train.lora.rank', run.train.lora.rank, 0),
    ('train.distillation.teacher', run.train.distillation.teacher, "''"),
  ):
    if value:
      raise errors.InputError(
        f'mesh.stage={stages}: {key}={value} is not trained in a pipeline; set '
        f'mesh.stage=1, or {key}={off}'
      )
