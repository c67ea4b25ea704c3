"""Experts that are split whole over `fsdp`, where their number divides.

A layer gathers the weights of its experts over `fsdp` before it uses them
(`sharded.LayerOnMesh`). If a dimension inside of the experts is split, the
pieces that arrive have to be put together expert by expert, and the gradient
has to be cut likewise: XLA for TPU copies all weights of the layer each time.
Whole experts lie one after the other, and nothing is copied.

Example, 8 experts [8, D, F] on expert=2, fsdp=2: a device holds [2, D, F] and
not [4, D / 2, F]. With fsdp=8 it holds [4, D / 8, F].
"""

from flax import nnx
from jax.sharding import Mesh

from moejax.parallel import rules


def keep(weights: nnx.Dict, num_experts: int, mesh: Mesh) -> None:
  """Names the dimensions of experts' weights so that experts stay whole.

  Nothing changes where the experts do not divide over `expert` and `fsdp`.

  Args:
    weights: parameters with their dimensions' names, changed in place.
    num_experts: number of experts.
    mesh: the devices.
  """
  fsdp = mesh.shape['fsdp']
  if fsdp == 1 or num_experts % (mesh.shape['expert'] * fsdp):
    return
  for param in weights.values():
    expert, *others = param.get_metadata()['axes']
    if expert == rules.EXPERT:
      inside = ('unsharded' if rules.RULES[n] == 'fsdp' else n for n in others)
      param.set_metadata(axes=(rules.WHOLE_EXPERT, *inside))
