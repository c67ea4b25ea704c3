"""Compiles the training step of a run for devices that need not exist here.

It is the step that training runs (`train.step.make`), lowered with shapes in
place of arrays. Nothing is executed.
"""

import dataclasses
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

from moejax.config import on_mesh
from moejax.config import teacher as teachers
from moejax.config.run import Run
from moejax.core import exits
from moejax.data.batch import Batch
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.parallel import rules
from moejax.plan import sight_count
from moejax.plan.topology import Slice
from moejax.train import lora, optimizer, step
from moejax.train import state as states
from moejax.vision.front_end import Encoder
from moejax.vision.inputs import RowImages

# The last file that the TPU compiler dumps; it has the text of the program.
_DUMPED = '*.after_codegen.txt'


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled training step, or the reason why it did not compile.

  Attributes:
    mesh: the mesh of the devices.
    state: shapes and shardings of the training state.
    batch: shapes and shardings of the batch.
    program: the compiled step; None if the compiler refused it because a device
      has too little memory.
    text: HLO text of the program; '' if it was refused.
    refusal: the compiler's reason in a line; '' if it compiled.
    seconds: seconds of tracing and lowering ('lower') and of compiling
      ('compile').
    teacher: shapes and shardings of the weights of the teacher, which are an
      input of the step; None without one.
    base: the same of the weights below adapters; None without adapters.
  """

  mesh: jax.sharding.Mesh
  state: states.State
  batch: Batch
  program: jax.stages.Compiled | None
  text: str
  refusal: str
  seconds: dict[str, float]
  teacher: build.Weights | None = None
  base: build.Weights | None = None


def training_step(run: Run, where: Slice) -> Compiled:
  """Compiles the run's training step.

  Args:
    run: the config.
    where: the devices.

  Raises:
    InputError: sizes that do not fit together or do not divide over the mesh.
  """
  start = time.monotonic()
  mesh, state, batch, lowered = lower(run, where)
  seconds = {'lower': time.monotonic() - start}
  with tempfile.TemporaryDirectory() as folder:
    options: dict[str, str | bool] | None = None
    if mesh.devices.flat[0].platform == 'tpu':
      options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    start = time.monotonic()
    program, refusal = compile_or_refuse(lowered, options)
    seconds['compile'] = time.monotonic() - start
    text = text_of(program, pathlib.Path(folder)) if program else ''
  return Compiled(
    mesh,
    state,
    batch,
    program,
    text,
    refusal,
    seconds,
    teacher_weights(run, where),
    base_weights(run, where),
  )


def lower(
  run: Run, where: Slice
) -> tuple[jax.sharding.Mesh, states.State, Batch, jax.stages.Lowered]:
  """Traces the training step for a mesh of the devices.

  The teacher of `train.distillation` is part of it, if there is one.

  Returns:
    The mesh; shapes and shardings of the state and of a batch; and the lowered
    step, which XLA can compile.

  Raises:
    InputError: sizes that do not fit together or do not divide over the mesh.
  """
  mesh = meshes.make(run.mesh, list(where.devices))
  on_mesh.check(run, mesh)
  model = lora.learner(build.build(run.model, mesh), run.train.lora)
  transform = optimizer.make(run.opt, run.train.steps, model.decays)
  teacher = _teacher(run, mesh)
  train_step = step.make(
    model, transform, run.opt, run.train, run.seed, teacher
  )
  state = states.abstract(
    model, transform, run.train.skip_spikes, run.train.sparsity
  )
  batch = _batch(run, mesh)
  inputs = [state, batch, *map(build.abstract, step.read_by(model, teacher))]
  return mesh, state, batch, train_step.lower(*inputs)


def teacher_weights(run: Run, where: Slice) -> build.Weights | None:
  """Shapes and shardings of the weights of the run's teacher, if it has one."""
  teacher = _teacher(run, meshes.make(run.mesh, list(where.devices)))
  return None if teacher is None else build.abstract(teacher)


def base_weights(run: Run, where: Slice) -> build.Weights | None:
  """Shapes and shardings of the weights below the run's adapters, if any."""
  if not run.train.lora.rank:
    return None
  mesh = meshes.make(run.mesh, list(where.devices))
  return build.abstract(build.build(run.model, mesh))


def compile_or_refuse(
  lowered: jax.stages.Lowered, options: dict[str, str | bool] | None = None
) -> tuple[jax.stages.Compiled | None, str]:
  """Compiles a program.

  Returns:
    The program and ''; or None and the compiler's reason in a line, if a device
    has too little memory.
  """
  try:
    return lowered.compile(options), ''
  except jax.errors.JaxRuntimeError as e:
    if exits.TOO_LARGE not in str(e):
      raise
    return None, _line(str(e))


def text_of(program: jax.stages.Compiled, folder: pathlib.Path) -> str:
  """The HLO text of a program, from the compiler's dump if jaxlib fails.

  jaxlib 0.10.2 cannot print programs in which scatters run on SparseCores
  ("async-update instruction should have 1 operands but sees 4").

  Args:
    program: the compiled program.
    folder: the folder into which the compiler dumped its files.
  """
  try:
    return program.as_text() or ''
  except jax.errors.JaxRuntimeError:
    dumped = sorted(folder.glob(_DUMPED))
    if not dumped:
      raise
    return dumped[-1].read_text()


def _batch(run: Run, mesh: jax.sharding.Mesh) -> Batch:
  """Shapes and shardings of a batch, with all images that it has room for."""
  sharding = rules.sharding(('rows',), mesh)
  rows, length = run.train.batch_size, run.data.sequence_length

  def shape(dtype: Any, *more: int) -> Any:
    return jax.ShapeDtypeStruct((rows, *more), dtype, sharding=sharding)

  ids = shape(jnp.int32, length)
  batch = Batch(ids, ids, shape(jnp.float32, length), ids, ids)
  reading, images = sight_count.of_run(run), run.data.images
  if not reading.images:
    return batch
  is_image_BL = shape(jnp.bool_, length)
  image = feature = None
  if images.features:
    vision = run.model.vision
    assert isinstance(vision, Encoder)
    width = vision.feature_width
    feature = shape(jnp.float32, reading.images, reading.patches, width)
  else:
    image = shape(jnp.float32, reading.images, *images.size, 3)
  seen = RowImages(image, feature, shape(jnp.int32), is_image_BL)
  return dataclasses.replace(batch, images=seen)


def _teacher(run: Run, mesh: jax.sharding.Mesh) -> build.Model | None:
  """The model that the run learns from; None without one."""
  found = teachers.find(run)
  return None if found is None else build.build(found.model, mesh)


def _line(message: str) -> str:
  """The sentence of XLA's long message that says how much memory is missing."""
  text = ' '.join(message.split())
  match = re.search(r'Used \S+ of \S+ \w+\. Exceeded \w+ capacity by \S+', text)
  return match[0].rstrip('.') if match else text[:200]
