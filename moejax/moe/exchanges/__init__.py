"""EXCHANGES: how rows and experts meet over the mesh's `expert` axis."""

from moejax.moe.exchanges import all_to_all, gathered, ragged, ring

EXCHANGES = {
  'all_to_all': all_to_all.AllToAll,
  'gathered': gathered.Gathered,
  'ragged_all_to_all': ragged.RaggedAllToAll,
  'ring': ring.Ring,
}
