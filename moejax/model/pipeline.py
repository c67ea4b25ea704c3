"""The layers of a model as a pipeline: its config, and what it cannot hold.

The pipeline has the last stage of the layers (`stages.py`): all layers of a
dense model, or those from the first one with experts. First dense layers,
embedding and head are outside.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moejax.core import errors, fields, values
from moejax.moe.feed_forward import Record
from moejax.parallel import mesh as meshes
from moejax.parallel import pipeline
from moejax.vision.front_end import TextOnly


@dataclasses.dataclass(frozen=True)
class Pipeline(fields.Checked):
  """How the layers are split over the mesh axis `stage` (`docs/pipelines.md`).

  Attributes:
    repeats: how often a microbatch passes each stage. With more the bubble is
      smaller, and activations move more often. Must divide, together with
      `mesh.stage`, the number of layers with experts.
    microbatches: number of parts of a (micro-)batch that pass the stages one
      after the other, a multiple of `mesh.stage`; 0 for one row of every device
      in each. Gradients and balance losses are those of the whole batch.
  """

  repeats: int = fields.number(1, at_least=1, at_most=10**4)
  microbatches: int = fields.number(
    0, at_least=0, at_most=10**6, note='0: one row of every device in each'
  )


def groups(config: Any) -> int:
  """The number of equal groups of layers in the pipeline of a model."""
  return config.num_sparse or config.num_layers


def kinds(config: Any) -> tuple[str, ...]:
  """The kinds of layers, 'dense' or 'moe', all of which are in the pipeline."""
  if not config.num_sparse:
    return ('dense',)
  return ('moe',) if config.moe_every == 1 else ('dense', 'moe')


def check(config: Any, mesh: Mesh) -> None:
  """Raises InputError for a model that cannot be a pipeline on a mesh.

  Args:
    config: of the model.
    mesh: the devices.
  """
  stages, repeats = mesh.shape[meshes.STAGE], config.pipeline.repeats
  if stages == 1:
    return
  why = _refusal(config, mesh)
  if why:
    raise errors.InputError(f'mesh.stage={stages}: {why}; or set mesh.stage=1')
  number, size = groups(config), stages * repeats
  if number % size:
    what = 'layers' if len(kinds(config)) == 1 else 'groups of layers'
    raise errors.InputError(
      f'mesh.stage={stages} x model.pipeline.repeats={repeats} do not divide '
      f'the {number} {what} of the pipeline; their product must be '
      f'{_nearest(number, size)}'
    )
  asked = config.pipeline.microbatches
  if asked % stages:
    below = [asked - asked % stages] if asked > stages else []
    near = [*below, asked - asked % stages + stages]
    raise errors.InputError(
      f'model.pipeline.microbatches={asked} is no multiple of mesh.stage='
      f'{stages}; use {" or ".join(map(str, near))}'
    )


def _refusal(config: Any, mesh: Mesh) -> str:
  """Why a model cannot be a pipeline, and what to set; '' if it can."""
  if mesh.shape['context'] > 1:
    return 'a pipeline does not split rows: set mesh.context=1'
  if config.vision != TextOnly():
    return (
      'a pipeline does not train models that read images: set '
      'model.vision.name=none'
    )
  if config.mtp_layers:
    return (
      'layers of multi-token prediction are not in a pipeline: set '
      'model.mtp_layers=0'
    )
  if config.first_dense and config.moe_every > 1 and config.num_sparse:
    return (
      'a pipeline does not have first dense layers and others: set '
      'model.first_dense=0 or model.moe_every=1'
    )
  return ''


def _nearest(number: int, size: int) -> str:
  """The divisors of `number` next to `size`, as text."""
  divisors = [n for n in range(2, number + 1) if number % n == 0]
  below = [n for n in divisors if n < size][-1:]
  above = [n for n in divisors if n > size][:1]
  return ' or '.join(map(str, below + above))


def schedule(
  config: Any, sizes: Mapping[str, int], rows: int
) -> pipeline.Schedule | None:
  """The schedule for a batch of `rows` rows; None if it cannot be cut.

  Batches of an evaluation may have other rows than those of training: they have
  the most microbatches that divide them, at most those of the config.

  Args:
    config: of the model.
    sizes: of the mesh's axes, by name.
    rows: rows of the batch.
  """
  stages = sizes[meshes.STAGE]
  shards = math.prod(sizes[axis] for axis in meshes.ROW_AXES)
  if stages == 1 or rows % (shards * stages):
    return None
  rows_of_device = rows // shards
  most = config.pipeline.microbatches or rows_of_device
  counts = range(stages, most + 1, stages)
  micro = max(n for n in counts if rows_of_device % n == 0)
  return pipeline.Schedule(stages, config.pipeline.repeats, micro)


def line(config: Any, sizes: Mapping[str, int], rows: int) -> str:
  """A line on the pipeline that rows of training pass, and on its bubble.

  Example:
    Pipeline: 4 stages of 8 layers, passed 2 times by 16 microbatches; the
    bubble is 8.6% of the iterations.

  Args:
    config: of the model.
    sizes: of the mesh's axes, with more than one stage.
    rows: rows of a (micro-)batch.
  """
  of_rows = schedule(config, sizes, rows)
  if of_rows is None:
    raise ValueError('no pipeline on this mesh, or for this number of rows')
  layers = groups(config) * (config.moe_every if config.num_sparse else 1)
  each = layers // of_rows.stages
  times = '' if of_rows.repeats == 1 else f' {of_rows.repeats} times'
  return (
    f'Pipeline: {of_rows.stages} stages of {each} layer{"s" * (each > 1)}, '
    f'passed{times} by {of_rows.microbatches} microbatches; the bubble is '
    f'{of_rows.bubble:.1%} of the iterations.'
  )


def check_rows(config: Any, mesh: Mesh, rows: int) -> None:
  """Raises InputError unless rows of training divide into the microbatches.

  Args:
    config: of the model.
    mesh: the devices; `rows` divide over them.
    rows: rows of a (micro-)batch.
  """
  asked, stages = config.pipeline.microbatches, mesh.shape[meshes.STAGE]
  rows_of_device = rows // meshes.row_shards(mesh) * stages
  if stages == 1 or not asked or rows_of_device % asked == 0:
    return
  counts = range(stages, rows_of_device + 1, stages)
  fitting = [n for n in counts if rows_of_device % n == 0]
  near = [n for n in fitting if n < asked][-1:]
  near += [n for n in fitting if n > asked][:1]
  raise errors.InputError(
    f'model.pipeline.microbatches={asked} does not divide the {rows_of_device} '
    'rows that a device has of a micro-batch in the pipeline; use '
    f'{" or ".join(map(str, near))}'
  )


def axes(
  config: Any, mesh: Mesh, by_path: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
  """The names of weights' dimensions, the layers of a pipeline as 'stages'.

  Args:
    config: of the model.
    mesh: the devices.
    by_path: the names by the weight's path.
  """
  if mesh.shape[meshes.STAGE] == 1:
    return by_path
  own = kinds(config)
  return {
    path: ('stages', *names[1:]) if path.split('/')[0] in own else names
    for path, names in by_path.items()
  }


def merged(records: Record) -> Record:
  """The record of a batch from those of its microbatches, first axis."""
  if not jax.tree.leaves(records):
    return records
  first = jax.tree.map(lambda x: x[0], records)
  start = Record(
    jax.tree.map(jnp.zeros_like, first.balance), values.empty(first.stats)
  )

  def add(total, one):
    balance = jax.tree.map(jnp.add, total.balance, one.balance)
    return Record(balance, values.merge(total.stats, one.stats))

  return jax.lax.scan(lambda a, b: (add(a, b), None), start, records)[0]
