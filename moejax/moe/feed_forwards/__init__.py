"""FEED_FORWARDS: the feed-forwards that layers can have besides dense ones.

A kind is a config with `make(sizes, moe, mesh, key)`, which makes the module of
one layer; all modules are called alike, see `moe.feed_forward`. Mixtures of
experts that are lists of assignments are all `routed`, whose config is
`MoEConfig`. What mixes tokens or looks up single neurons is a kind of its own.
"""

from moejax.moe.feed_forward import FeedForwardConfig
from moejax.moe.feed_forwards.dense import Dense
from moejax.moe.feed_forwards.peer import PEERConfig
from moejax.moe.feed_forwards.routed import Routed
from moejax.moe.feed_forwards.soft_moe import SoftMoEConfig

__all__ = ['FEED_FORWARDS', 'Dense', 'PEERConfig', 'Routed', 'SoftMoEConfig']

FEED_FORWARDS: dict[str, type[FeedForwardConfig]] = {
  'peer': PEERConfig,
  'routed': Routed,
  'soft_moe': SoftMoEConfig,
}
