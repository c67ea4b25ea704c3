"""Shapes of batches: sizes that are rounded up, so that few are compiled.

Each shape is a program, which takes seconds to compile. Beside the computation
for much text that is little, so the steps between sizes are small and little is
padded. For little text compiling takes far longer than computing; then sizes
are powers of 4, and batches are padded to their full number of rows.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from moejax.model.build import Model
from moejax.parallel import mesh as meshes

# Tokens of a batch on each of the devices that split it, by platform.
BATCH_TOKENS = {'cpu': 2048}
BATCH_TOKENS_ELSEWHERE = 16_384
# Work below which shapes are to be few, in weights times tokens: about what a
# device computes in the time in which it compiles five programs. In MoE models
# a token uses a part of the weights only, so the work is less.
LITTLE = {'cpu': 1e12}
LITTLE_ELSEWHERE = 1e15


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The rule for the sizes of batches.

  Attributes:
    model: the network, over whose mesh rows are split.
    tokens: tokens of a batch on all devices.
    few: whether shapes are few, at the price of padding.
  """

  model: Model
  tokens: int
  few: bool = False

  def bucket(self, size: int) -> int:
    """The smallest size of the rule that holds `size`.

    They are 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ..., or if `few` 1, 4, 16, ...
    """
    power = 1 << max(0, size - 1).bit_length()
    if self.few:
      return power << (power.bit_length() - 1) % 2
    middle = 3 * power // 4
    return middle if power >= 32 and size <= middle else power

  def full_rows(self, length: int, scale: int = 1) -> int:
    """Rows of a full batch of this length; a multiple of the shards.

    Example, 2048 tokens: 32 rows of 64 tokens, 16 rows of 96.

    Args:
      length: tokens of a row.
      scale: multiplies the tokens of a batch.
    """
    shards = meshes.batch_size(self.model.mesh)
    per_shard = max(1, self.tokens * scale // (length * shards))
    return shards * (1 << (per_shard.bit_length() - 1))

  def rows(self, count: int, full: int) -> int:
    """Rows to which a batch of `count` rows is padded; `full` of a full one."""
    return full if self.few else padded(self.model, count)


def padded(model: Model, rows: int) -> int:
  """A power of two times the shards that holds so many rows."""
  shards = meshes.batch_size(model.mesh)
  return shards * (1 << max(0, -(-rows // shards) - 1).bit_length())


def choose(
  model: Model, weights: Any, lengths: Iterable[int], tokens: int = 0
) -> Shapes:
  """The rule for texts of these lengths, in tokens.

  Args:
    model: the network.
    weights: its weights.
    lengths: of all texts that are scored.
    tokens: tokens of a batch; 0 for what suits the devices.
  """
  platform = model.mesh.devices.flat[0].platform
  size = meshes.batch_size(model.mesh)
  own = BATCH_TOKENS.get(platform, BATCH_TOKENS_ELSEWHERE)
  count = sum(leaf.size for leaf in jax.tree.leaves(weights))
  little = LITTLE.get(platform, LITTLE_ELSEWHERE) * size
  return Shapes(model, tokens or own * size, count * sum(lengths) < little)
