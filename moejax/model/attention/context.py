"""CONTEXT_PARALLEL: attention of rows that are split over the `context` axis.

  attend = config.context_parallel.core(config.attention, platform, mesh)
  out_PSHV = attend(q_PSHK, k_PSGK, v_PSGV, segment_PS, window, sink_H)

P pieces of S tokens, from `parallel.context.split`; windows and sinks as in
`dot_product.with_window_and_sinks`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors, fields, table
from moejax.model.attention import online
from moejax.model.attention.splash_pieces import SplashPieces
from moejax.moe.balance import BALANCE
from moejax.parallel import context
from moejax.parallel import mesh as meshes
from moejax.vision.front_end import TextOnly

# Platforms on which `auto` takes the kernel where the shapes allow it.
_HAS_KERNEL = ('tpu',)


@dataclasses.dataclass(frozen=True)
class ContextParallel(fields.Checked):
  """How a device comes by the keys of the others along the `context` axis.

  Attributes:
    order: how a row is dealt to the devices (`parallel/context.py`).
  """

  order: str = fields.named(context.ORDERS, 'balanced')

  # Names of `model.attention` besides auto that compute pieces.
  kernels: ClassVar[tuple[str, ...]] = ()
  # Whether a device holds all keys of a row at once.
  gathers_keys: ClassVar[bool] = False

  def schedule(self, mesh: Mesh) -> online.Schedule:
    """The schedule of `online.attend`."""
    raise NotImplementedError

  def core(
    self, attention: str, platform: str, mesh: Mesh | None
  ) -> Callable[..., jax.Array]:
    """The attention of pieces, as the module's docstring has it.

    Args:
      attention: `model.attention`, auto or one of `kernels`.
      platform: the platform of the devices: cpu, tpu, ...
      mesh: the devices.
    """
    del attention, platform
    return Online(self, mesh)


@dataclasses.dataclass(frozen=True)
class Online:
  """The online softmax on every device of a mesh.

  Attributes:
    parallel: how the devices come by keys.
    mesh: the devices; without them there are no pieces to compute.
  """

  parallel: ContextParallel
  mesh: Mesh | None

  def __call__(
    self,
    q_PSHK: jax.Array,
    k_PSGK: jax.Array,
    v_PSGV: jax.Array,
    segment_PS: jax.Array,
    window: jax.Array | None = None,
    sink_H: jax.Array | None = None,
  ) -> jax.Array:
    mesh, order = self.mesh, self.parallel.order
    if mesh is None:
      raise ValueError('pieces of rows without a mesh')
    schedule = self.parallel.schedule(mesh)

    def shard(q, k, v, segment_PS, window, sink_H):
      start_C = context.starts(mesh, order, segment_PS.shape[1])
      tokens = online.Tokens(segment_PS, start_C, window)
      return online.attend(schedule, q, k, v, tokens, sink_H)

    pieces = PartitionSpec(meshes.BATCH_AXES)
    heads = PartitionSpec(meshes.BATCH_AXES, None, 'model')
    window = jnp.zeros((), jnp.int32) if window is None else window
    return jax.shard_map(
      shard,
      mesh=mesh,
      in_specs=(
        *(heads, heads, heads, pieces),
        PartitionSpec(),
        None if sink_H is None else PartitionSpec('model'),
      ),
      out_specs=heads,
    )(q_PSHK, k_PSGK, v_PSGV, segment_PS, window, sink_H)


@dataclasses.dataclass(frozen=True)
class AllGather(ContextParallel):
  """Every device gathers the keys and values of its rows (Llama 3).

  2407.21783, section 3.3.2: keys and values are small beside the queries where
  several heads share them. In the backward pass they are gathered once more,
  and their gradients are summed and scattered. A device holds all L keys of a
  row while it computes a layer.
  On TPU a kernel computes the scores (`splash_pieces.py`).
  """

  kernels: ClassVar[tuple[str, ...]] = ('splash',)
  gathers_keys: ClassVar[bool] = True

  def schedule(self, mesh: Mesh) -> online.Schedule:
    del mesh
    return online.Gathered()

  def core(
    self, attention: str, platform: str, mesh: Mesh | None
  ) -> Callable[..., jax.Array]:
    general = super().core(attention, platform, mesh)
    if mesh is None:
      return general
    if attention in self.kernels:
      return SplashPieces(mesh, self.order, general)
    if platform in _HAS_KERNEL:
      return SplashPieces(mesh, self.order, general, otherwise=general)
    return general


@dataclasses.dataclass(frozen=True)
class Ring(ContextParallel):
  """Keys and values go around a ring of devices (arXiv 2310.01889).

  A device holds the keys of two pieces at a time. N - 1 steps send as many
  bytes as an all-gather, each while the scores of the step before are computed.
  """

  def schedule(self, mesh: Mesh) -> online.Schedule:
    return online.Rotated(mesh.shape[context.AXIS])


# name in a config -> the class
CONTEXT_PARALLEL: dict[str, type[ContextParallel]] = {
  'all_gather': AllGather,
  'ring': Ring,
}


def check(config: Any, mesh: Mesh) -> None:
  """Raises InputError for a model whose rows cannot be split over a mesh.

  Args:
    config: of the model.
    mesh: the devices.
  """
  size = mesh.shape[context.AXIS]
  if size == 1:
    return
  why = _refusal(config)
  if why:
    raise errors.InputError(
      f'mesh.context={size} splits rows over devices, but {why}; or set '
      'mesh.context=1'
    )


def _refusal(config: Any) -> str:
  """Why rows of a model cannot be split, and what to set; '' if they can."""
  parallel = config.context_parallel
  if config.attention not in ('auto', *parallel.kernels):
    name = fields.chosen(config, 'context_parallel')
    return (
      f'model.attention={config.attention} needs whole rows under '
      f'model.context_parallel={name}: set model.attention=auto'
    )
  if config.vision != TextOnly():
    return (
      'a model that reads images needs whole rows: set model.vision.name=none'
    )
  if not config.num_sparse:
    return ''
  parts = [(config, 'model', 'feed_forward')]
  if config.is_routed:
    parts = [(config.moe, 'model.moe', n) for n in ('router', 'dispatcher')]
  for node, where, field in parts:
    if getattr(getattr(node, field), 'reads_rows', False):
      name = fields.chosen(node, field)
      return f'{where}.{field}={name} needs whole rows: take another'
  if not config.is_routed:
    return ''
  for part in config.moe.balance:
    if part.reads_rows:
      name = table.name_of(BALANCE, part)
      return f'model.moe.balance.{name} needs whole rows: set it to off'
  return ''
