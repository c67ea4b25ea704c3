"""The teacher of a run (`train.distillation`): its structure and weights."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from moejax.config import Run
from moejax.config import teacher as configs
from moejax.config.teacher import KEY
from moejax.convert import load as load_hf
from moejax.core import errors, trees
from moejax.model import build
from moejax.parallel import rules
from moejax.parallel.group import Group
from moejax.run import restore
from moejax.train.distillation import BEST, NEWEST

# Key of a checkpoint's extra.
EXTRA = 'teacher'
STEP_KEY = 'train.distillation.teacher_step'


@dataclasses.dataclass(frozen=True)
class Source:
  """A teacher that fits the run; `load` reads its weights.

  Attributes:
    config: what the run's config names.
    model: the structure, on the mesh of the run.
  """

  config: configs.TeacherConfig
  model: build.Model


@dataclasses.dataclass(frozen=True)
class Loaded:
  """The weights of a teacher on the devices, and what identifies them.

  Attributes:
    weights: the weights, never changed.
    extra: JSON for the run's checkpoints: the step of the teacher's run (None
      for a Hugging Face checkpoint), and a fingerprint of the weights.
  """

  weights: build.Weights
  extra: dict[str, Any]


def open_source(
  run: Run, workdir: epath.Path, mesh: jax.sharding.Mesh, group: Group
) -> Source | None:
  """The teacher of a run, without its weights; None without a teacher.

  Args:
    run: the config.
    workdir: folder of the run.
    mesh: the devices of the run.
    group: the processes of the run.

  Raises:
    InputError: there is no such teacher, or it does not fit the run or its
      devices.
  """
  config = configs.find(run, str(workdir))
  if config is None:
    return None
  try:
    model = build.build(config.model, mesh)
    model.trace(run.train.batch_size, run.data.sequence_length)
  except errors.InputError as e:
    raise errors.InputError(f'{KEY}={config.place}: {e}') from e
  if config.plan is None:
    with restore.checkpoints(config.place, group=group) as saved:
      saved.find(run.train.distillation.teacher_step, STEP_KEY)
  return Source(config, model)


def extra(loaded: Loaded | None) -> dict[str, Any]:
  """What the checkpoints of a run record of its teacher."""
  return {} if loaded is None else {EXTRA: loaded.extra}


def given(
  step: Callable[..., Any], loaded: Loaded | None
) -> Callable[..., Any]:
  """The training step of two arguments: the teacher's weights are given."""
  if loaded is None:
    return step
  return lambda state, batch: step(state, batch, loaded.weights)


def load(
  source: Source | None,
  run: Run,
  extra: dict[str, Any] | None,
  group: Group,
  say: Callable[[str], None],
) -> Loaded | None:
  """Reads the weights of the teacher.

  Args:
    source: the teacher; None without one.
    run: the config of the run that learns from it.
    extra: of the checkpoint from which the run goes on; None if it begins. The
      run then stays with the teacher's step, whatever `newest` has become.
    group: the processes that read.
    say: is called with lines on what is read.

  Raises:
    InputError: the teacher has no such checkpoint, or the run has learned from
      other weights so far.
  """
  before = None if extra is None else extra.get(EXTRA)
  if extra is not None and (source is None) != (before is None):
    now = run.train.distillation.teacher
    raise errors.InputError(
      f'{KEY}={now!r}, but the checkpoint is of a run '
      f'{"without" if before is None else "with"} a teacher: use another '
      '--workdir, or the config that is there'
    )
  if source is None:
    return None
  weights, step = _weights(source, run, before, group, say)
  at = '' if step is None else f', step {step}'
  size = trees.count(source.model.shapes)
  say(f'Learning from {source.config.place}{at}: {size / 1e6:.1f}M parameters.')
  if before is None and not source.config.compared:
    say(
      f'{source.config.place} came without a tokenizer, so it was not compared '
      'with data.vocab.'
    )
  identity = {'step': step, 'fingerprint': fingerprint(source.model, weights)}
  if before is not None and before['fingerprint'] != identity['fingerprint']:
    raise errors.InputError(
      f'{KEY}={source.config.place} has other weights than the teacher of the '
      'checkpoint: the run could not go on as it began; put them back, or use '
      'another --workdir'
    )
  return Loaded(weights, identity)


def _weights(
  source: Source,
  run: Run,
  before: dict[str, Any] | None,
  group: Group,
  say: Callable[[str], None],
) -> tuple[build.Weights, int | None]:
  """The weights and their step, None for a Hugging Face checkpoint."""
  plan = source.config.plan
  if plan is not None:
    return load_hf.weights(plan, source.model), None
  step = run.train.distillation.teacher_step
  if before and before['step'] is not None and step in (NEWEST, BEST):
    step = str(before['step'])
  return restore.weights(
    source.model, source.config.place, say, group, step=step, key=STEP_KEY
  )


def fingerprint(model: build.Model, weights: build.Weights) -> str:
  """A hash of weights, the same on any mesh; it does not read their names.

  A weight contributes the sum of its bits, as integers modulo 2^32, each times
  an odd number that depends on its place. Such sums do not depend on their
  order.
  """

  def one(x: jax.Array) -> jax.Array:
    kind = jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(x.shape):
      index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
      place = place * jnp.uint32(size % 2**32) + index
    return jnp.sum(bits * (place * jnp.uint32(2_654_435_760) + 1))

  whole = rules.replicated(model.mesh)
  sums = jax.jit(lambda tree: jax.tree.map(one, tree), out_shardings=whole)
  return digest(map(int, jax.tree.leaves(jax.device_get(sums(weights)))))


def digest(numbers: Iterable[int]) -> str:
  """A short hash of numbers."""
  text = ','.join(map(str, numbers))
  return hashlib.sha256(text.encode()).hexdigest()[:16]
