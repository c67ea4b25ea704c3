"""The Pallas kernel for TPU on pieces of rows, whose keys are gathered.

As `splash.py`, on a mesh with a `context` axis: each device has the queries of
its piece and gathers the keys of the row. Which blocks of keys its queries see
differs from device to device: the kernel's lists of blocks are split over
`context` like the queries.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moejax.core import errors
from moejax.model.attention import narrow_values, splash
from moejax.parallel import context
from moejax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class SplashPieces:
  """Causal attention within segments; see `splash.Splash`.

  Attributes:
    mesh: the devices.
    order: how rows are dealt to the devices.
    general: attention with windows and sinks, which the kernel does not have.
    otherwise: attention for shapes that the kernel cannot compute, those whose
      chunks are no multiple of 128 tokens; None raises an InputError for these.
    interpret: whether to interpret the kernel, on any platform; for tests.
  """

  mesh: Mesh
  order: str
  general: Callable[..., jax.Array]
  otherwise: Callable[..., jax.Array] | None = None
  interpret: bool = False

  takes_narrow_values: ClassVar[bool] = True

  def __call__(
    self,
    q_PSHK: jax.Array,
    k_PSGK: jax.Array,
    v_PSGV: jax.Array,
    segment_PS: jax.Array,
    window: jax.Array | None = None,
    sink_H: jax.Array | None = None,
  ) -> jax.Array:
    """See `context.Online`."""
    if window is not None or sink_H is not None:
      return self.general(q_PSHK, k_PSGK, v_PSGV, segment_PS, window, sink_H)
    _, length, heads, width = q_PSHK.shape
    chunk = length // context.chunks(self.mesh, self.order).shape[1]
    if chunk % splash.LANES:
      if self.otherwise is not None:
        return narrow_values.attend(
          self.otherwise, q_PSHK, k_PSGK, v_PSGV, segment_PS
        )
      raise errors.InputError(
        f'model.attention=splash needs chunks of a multiple of {splash.LANES} '
        f'tokens for each device along context, not {chunk}; use auto'
      )
    kernel = kernels.make_splash_mha(
      masks.MultiHeadMask(
        [PieceMask(self._places(length))] * (heads // self.mesh.shape['model'])
      ),
      block_sizes=splash.block_sizes(splash.block(chunk, splash.padded(width))),
      head_shards=1,
      q_seq_shards=self.mesh.shape[context.AXIS],
      residual_checkpoint_name=splash.NAME,
      interpret=self.interpret,
    )

    def shard(kernel, q, k, v, segment_PS):
      whole = functools.partial(
        context.gathered, mesh=self.mesh, order=self.order
      )
      segments = segment_PS, whole(segment_PS)
      return splash.run(kernel, q, whole(k), whole(v), segments)

    by_queries = NamedSharding(self.mesh, PartitionSpec(None, context.AXIS))
    pieces = PartitionSpec(meshes.BATCH_AXES)
    by_head = PartitionSpec(meshes.BATCH_AXES, None, 'model')
    return jax.shard_map(
      shard,
      mesh=self.mesh,
      in_specs=(
        kernel.manual_sharding_spec(by_queries),
        *(by_head, by_head, by_head, pieces),
      ),
      out_specs=by_head,
      # As in `splash.Splash`.
      check_vma=False,
    )(kernel, q_PSHK, k_PSGK, v_PSGV, segment_PS)

  def _places(self, length: int) -> np.ndarray:
    """Places in the row of the tokens of all pieces, device by device."""
    chunk_NC = context.chunks(self.mesh, self.order)
    size = length // chunk_NC.shape[1]
    place_NCc = chunk_NC[..., None] * size + np.arange(size)
    return place_NCc.reshape(-1).astype(np.int32)


class PieceMask(masks.Mask):
  """Queries in any order see the keys, in order, up to their own places.

  The kernel calls `mask_function` with the places of queries and keys.
  """

  def __init__(self, place_L: np.ndarray):
    self.q_sequence = place_L
    self.mask_function = operator.ge

  @property
  def shape(self) -> tuple[int, int]:
    return len(self.q_sequence), len(self.q_sequence)

  def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
    queries, keys = index
    place_K = np.arange(keys.start, keys.stop)
    return self.q_sequence[queries, None] >= place_K

  def __eq__(self, other: object) -> bool:
    return isinstance(other, PieceMask) and np.array_equal(
      self.q_sequence, other.q_sequence
    )

  def __hash__(self) -> int:
    return hash(self.q_sequence.tobytes())
