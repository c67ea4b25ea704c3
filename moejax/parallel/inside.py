"""Shardings and `shard_map` inside of a `shard_map` over some mesh axes.

A pipeline is a `shard_map` over the axis `stage`: inside, an array is that of
one stage, and XLA shards it over the other axes. What a layer says about its
arrays may name `stage`, which splits rows outside of a pipeline. These
functions leave out the axes that are split already.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moejax.parallel import mesh as meshes


def sharding(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
  """The sharding by `spec` over the axes that are not split yet."""
  if not meshes.manual():
    return NamedSharding(mesh, spec)
  return NamedSharding(jax.sharding.get_abstract_mesh(), _without(spec))


def shard_map(
  f: Callable[..., Any],
  mesh: Mesh,
  in_specs: Any,
  out_specs: Any,
  *,
  check_vma: bool = True,
) -> Callable[..., Any]:
  """`jax.shard_map` over the axes of the mesh that are not split yet.

  Args:
    f: the function of a shard.
    mesh: the devices.
    in_specs: as of `jax.shard_map`; axes that are split are left out.
    out_specs: the same.
    check_vma: whether JAX tracks the axes over which arrays vary. Inside of
      another `shard_map` it does not: with the check the backward pass of JAX
      0.10 to 0.12 splits residuals over the outer axes a second time, and
      fails.
  """
  split = meshes.manual()
  if not split:
    return jax.shard_map(
      f,
      mesh=mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=check_vma,
    )
  is_spec = lambda x: isinstance(x, PartitionSpec)
  own = lambda specs: jax.tree.map(_without, specs, is_leaf=is_spec)
  return jax.shard_map(
    f,
    mesh=jax.sharding.get_abstract_mesh(),
    in_specs=own(in_specs),
    out_specs=own(out_specs),
    axis_names=set(mesh.axis_names) - split,
    check_vma=False,
  )


def _without(spec: PartitionSpec) -> PartitionSpec:
  """The spec without axes that are split already."""
  split = meshes.manual()

  def one(names: Any) -> Any:
    if names is None:
      return None
    each = (names,) if isinstance(names, str) else names
    return tuple(name for name in each if name not in split) or None

  return PartitionSpec(*map(one, spec))
