"""EXPERT_PARALLEL: how rows and experts meet over the `expert` mesh axis."""

from moejax.moe.expert_parallel import (
  all_gather,
  all_to_all,
  gather_experts,
  ragged,
)

EXPERT_PARALLEL = {
  'all_to_all': all_to_all.AllToAll,
  'gather_experts': gather_experts.GatherExperts,
  'ragged_all_to_all': ragged.RaggedAllToAll,
  'all_gather': all_gather.AllGather,
}
