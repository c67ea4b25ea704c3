"""FEED_FORWARDS: what the layers that are not dense have for a feed-forward.

Mixtures of experts that are lists of assignments are all `routed`, whose config
is `MoEConfig`. What mixes tokens or looks up single neurons is of another kind.
"""

import dataclasses

from moejax.moe.feed_forwards.peer import PEERConfig
from moejax.moe.feed_forwards.soft_moe import SoftMoEConfig


@dataclasses.dataclass(frozen=True)
class Routed:
  """Experts that tokens are sent to, as `model.moe` says."""

  def check(self) -> None:
    """`MoEConfig.check` does it."""

  def shrunk(self) -> 'Routed':
    """The same for a model that is shrunk to a laptop's."""
    return self


FEED_FORWARDS = {
  'peer': PEERConfig,
  'routed': Routed,
  'soft_moe': SoftMoEConfig,
}
