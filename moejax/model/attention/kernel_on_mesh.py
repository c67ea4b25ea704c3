"""Attention by a Pallas kernel, on the devices of a mesh.

XLA cannot split a kernel over devices, so it runs in a `shard_map`: rows over
the batch axes, heads over `model`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors
from moejax.model.attention import narrow_values
from moejax.parallel import inside
from moejax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class KernelOnMesh:
  """Causal attention within segments; values may be narrower than keys.

  Attributes:
    mesh: the devices; None for one.
    otherwise: attention for what the kernel cannot compute: shapes of which
      `refuses` says why, rows or heads that do not divide over the mesh, and
      other platforms. None raises an InputError for these.
    interpret: whether to interpret the kernel, on any platform; for tests.
  """

  mesh: Mesh | None = None
  otherwise: Callable | None = None
  interpret: bool = False

  takes_narrow_values: ClassVar[bool] = True
  # Its name in a config, its platform in JAX, and what such devices are called.
  name: ClassVar[str]
  platform: ClassVar[str]
  devices: ClassVar[str]

  def refuses(self, q: jax.Array, k: jax.Array, v: jax.Array) -> str:
    """Why the kernel cannot do these shapes on any mesh, or '' if it can."""
    raise NotImplementedError

  def local(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGV: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    """The attention of one device's rows."""
    raise NotImplementedError

  def __call__(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGV: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    why = self.refuses(q_BLHK, k_BLGK, v_BLGV)
    why = why or self._refuses_mesh(q_BLHK.shape[0], k_BLGK.shape[2])
    if why and self.otherwise is not None:
      return narrow_values.attend(
        self.otherwise, q_BLHK, k_BLGK, v_BLGV, segment_BL
      )
    if why:
      raise errors.InputError(f'model.attention={self.name} {why}; use auto')
    local: Callable[..., Any] = self.local
    if self.mesh is not None and self.mesh.size > 1:
      rows = meshes.token_axes()
      heads = PartitionSpec(rows, None, 'model', None)
      local = inside.shard_map(
        local,
        self.mesh,
        in_specs=(heads, heads, heads, PartitionSpec(rows)),
        out_specs=heads,
        # The kernel does not say over which axes its output varies: all.
        check_vma=False,
      )
    return local(q_BLHK, k_BLGK, v_BLGV, segment_BL)

  def _refuses_mesh(self, rows: int, groups: int) -> str:
    """Why the mesh cannot do so many rows and key heads, or '' if it can."""
    if self.mesh is None:
      return ''
    parts, split = meshes.batch_size(self.mesh), self.mesh.shape['model']
    if rows % parts or groups % split:
      return (
        f'needs rows over {parts} devices and key heads over {split}, '
        f'not {rows} and {groups}'
      )
    platform = self.mesh.devices.flat[0].platform
    if platform != self.platform and not self.interpret:
      return f'needs {self.devices}, not {platform}'
    return ''
