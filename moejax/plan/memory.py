"""Bytes of a training step on one device, by part, with the source of each.

  parameters, optimiser, batch,
  parameters of a teacher, and
  those below adapters           arithmetic on shapes and shardings
  gradients                      arithmetic: as many bytes as the parameters,
                                 held until the optimiser has used the last one
  activations and temporary      compiler: its temporary memory, less the
                                 gradients, which are part of it
  program                        compiler: the code

Arguments are donated: the new state takes the place of the old one.
"""

import dataclasses
import math
from typing import Any

import jax

from moejax.plan.compile import Compiled


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device.

  Attributes:
    parts: bytes known by arithmetic, by part.
    arguments: bytes of the arguments, from the compiler, as are the next four;
      all five are 0 if the step did not compile.
    temporary: bytes of temporary memory.
    output: bytes of the results.
    shared: bytes of the results that take the place of donated arguments.
    code: bytes of the program.
    limit: bytes of memory of the device.
    refusal: the compiler's reason if the step did not compile; '' if it did.
    peak: the most bytes that are in use at one time, from the compiler; 0 if it
      does not say. It is less than `total`, because not everything that is
      allocated is in use at the same time.
  """

  parts: dict[str, float]
  arguments: float
  temporary: float
  output: float
  shared: float
  code: float
  limit: float
  refusal: str = ''
  peak: float = 0.0

  @property
  def total(self) -> float:
    """Bytes that are allocated; after a refusal, those known by arithmetic."""
    if self.refusal:
      return sum(self.parts.values())
    own = self.arguments + self.temporary + self.code
    return own + self.output - self.shared

  @property
  def fits(self) -> bool:
    """Whether the total is within the memory of the device."""
    return not self.refusal and self.total <= self.limit

  def rows(self) -> list[tuple[str, float, str]]:
    """(part, bytes, source) for each part; source: arithmetic or compiler."""
    rows = [(part, size, 'arithmetic') for part, size in self.parts.items()]
    if self.refusal:
      return rows
    rest = max(self.temporary - self.parts['gradients'], 0)
    rest += self.output - self.shared
    return [
      *rows,
      ('activations and temporary', rest, 'compiler'),
      ('program', self.code, 'compiler'),
    ]


def of(compiled: Compiled, limit: float) -> Memory:
  """The memory of a compiled step.

  Args:
    compiled: the step.
    limit: bytes of memory of a device.
  """
  weights = per_device(compiled.state.weights)
  parts = {
    'parameters': weights,
    'optimiser': per_device(compiled.state.opt_state),
    'gradients': weights,
    'batch': per_device(compiled.batch),
  }
  if compiled.teacher is not None:
    parts['teacher'] = per_device(compiled.teacher)
  if compiled.base is not None:
    parts['base of adapters'] = per_device(compiled.base)
  if compiled.program is None:
    return Memory(parts, 0, 0, 0, 0, 0, limit, compiled.refusal)
  # JAX exports no type for the result.
  analysis: Any = compiled.program.memory_analysis()
  return Memory(
    parts,
    arguments=analysis.argument_size_in_bytes,
    temporary=analysis.temp_size_in_bytes,
    output=analysis.output_size_in_bytes,
    shared=analysis.alias_size_in_bytes,
    code=analysis.generated_code_size_in_bytes,
    limit=limit,
    peak=getattr(analysis, 'peak_memory_in_bytes', 0),
  )


def per_device(tree: Any) -> float:
  """Bytes on one device of a tree of shapes with shardings."""
  return float(
    sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
    )
  )
