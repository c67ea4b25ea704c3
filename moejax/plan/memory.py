"""Bytes on one device, by part: some from shapes, some from the compiler.

  parameters, optimiser, batch   arithmetic: shapes and how they are split
  gradients                      arithmetic: as large as the parameters, and
                                 held until the optimiser has used the last
  activations and temporary      the compiler's temporary memory, less the
                                 gradients, which are in it
  program                        the compiler's: its code

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
    parts: arithmetic, by part.
    arguments, temporary, output, shared, code: as the compiler says, if it
      compiled; `shared` is what of the output lies in the arguments' place.
    limit: memory of the device.
    refusal: the reason of the compiler if it did not compile.
    peak: the most that is in use at one time, as the compiler says; less than
      the total, since what is not in use at the same time may lie apart. 0 if
      it does not say.
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
    """Bytes that are held at once; after a refusal, those known from shapes."""
    if self.refusal:
      return sum(self.parts.values())
    own = self.arguments + self.temporary + self.code
    return own + self.output - self.shared

  @property
  def fits(self) -> bool:
    """Whether the total is within the memory of the device."""
    return not self.refusal and self.total <= self.limit

  def rows(self) -> list[tuple[str, float, str]]:
    """(part, bytes, source)."""
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
  """The memory of a compiled step."""
  weights = per_device(compiled.state.weights)
  parts = {
    'parameters': weights,
    'optimiser': per_device(compiled.state.opt_state),
    'gradients': weights,
    'batch': per_device(compiled.batch),
  }
  if compiled.program is None:
    return Memory(parts, 0, 0, 0, 0, 0, limit, compiled.refusal)
  # JAX has no class for it.
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
  """Bytes of a tree of shapes with shardings, on one device."""
  return float(
    sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
    )
  )
