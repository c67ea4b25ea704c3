"""ROUTERS: every router by its name in a config."""

from moejax.moe.routers import gshard, top_k

ROUTERS = {
  'gshard': gshard.GShard,
  'top_k': top_k.TopK,
}
