"""FEED_FORWARDS: the feed-forwards that layers can have besides dense ones.

An entry is a config with `make(sizes, moe, mesh, key)`, which makes the module
of one layer; all modules have one signature, see `moe.feed_forward`. Every
mixture of experts whose routing is a list of assignments is `routed`, with
`MoEConfig` for its config. Feed-forwards that mix tokens (Soft MoE) or look up
single neurons (PEER) are entries of their own.
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
