"""From what a program does to how long that takes: two estimates of a step.

The roofline's: the longest of three times, each at the chip's best,

  compute   FLOPs of matrix products and kernels / peak
  memory    bytes to and from HBM / bandwidth
  network   bytes sent / bandwidth of the links that the collective can use

The compiler's: the cycles that the TPU compiler wrote beside each fusion, every
loop counted as often as it runs, over the clock; and, as the compiler has no
figure for them,

  kernels      the longer of FLOPs / peak and bytes / bandwidth of each Pallas
               kernel, over KERNEL_SHARE, which is assumed
  rest         row gathers and copies of which it has no figure, at the full
               bandwidth of HBM
  collectives  those that nothing runs beside at the network time above; the
               others only as far as they take longer than all the rest

Neither was compared with a chip.

The network of a TPU is a torus. A collective whose devices differ along one of
its three dimensions can use a third of a chip's links. Example, v5p:4x4x4, 600
GB/s: fsdp=64 is all three dimensions, 600 GB/s; expert=4 is one, 200 GB/s.
Between slices it is the data centre's: v5p 6.25 GB/s a chip.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax

from moejax.parallel.collective_bytes import Collective
from moejax.plan.chips import Chip
from moejax.plan.program_cost import Cost, PallasCall

# Which part of its roofline a Pallas kernel reaches: assumed, not measured.
KERNEL_SHARE = 0.7


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one step on one device.

  Attributes:
    compute, memory, network: seconds of the three bounds of the roofline.
    fusions: the compiler's, without kernels and collectives.
    kernels: as assumed.
    rest: what the compiler has no estimate of.
    exposed: collectives that nothing runs beside.
  """

  compute: float
  memory: float
  network: float
  fusions: float
  kernels: float
  rest: float
  exposed: float

  @property
  def roofline(self) -> float:
    """The longest of the three."""
    return max(self.compute, self.memory, self.network)

  @property
  def bound(self) -> str:
    """Name of the bound that is the longest."""
    names = ('compute', 'memory', 'network')
    return max(names, key=lambda name: getattr(self, name))

  @property
  def compiler(self) -> float:
    """The compiler's estimate, with what it has no figure for."""
    return self.fusions + self.kernels + self.rest + self.exposed


def times(
  cost: Cost,
  collectives: Iterable[Collective],
  chip: Chip,
  devices: Sequence[jax.Device],
) -> Times:
  """Both estimates.

  Args:
    cost: cost of the program on one device.
    collectives: in it; what is in branches is left out.
    chip: peak rates of one device.
    devices: of the mesh, flat, of one slice if there are several; their
      `coords` say which links lie between.
  """
  always = [one for one in collectives if not one.optional]
  seconds = {True: 0.0, False: 0.0}
  for one in always:
    rate = chip.dcn_bandwidth
    if not one.between:
      rate = chip.ici_bandwidth * link_share(one.group, devices, chip.links)
    seconds[one.hidden] += one.sent * one.times / rate
  fusions = cost.cycles / chip.clock
  rest = cost.rest_bytes / chip.hbm_bandwidth
  kernels = sum(k.times * kernel(k, chip) for k in cost.kernels)
  return Times(
    compute=(cost.flops + cost.kernel_flops) / chip.peak,
    memory=(cost.num_bytes + cost.kernel_bytes) / chip.hbm_bandwidth,
    network=sum(seconds.values()),
    fusions=fusions,
    kernels=kernels,
    rest=rest,
    exposed=seconds[False] + max(0.0, seconds[True] - fusions - kernels - rest),
  )


def kernel(one: PallasCall, chip: Chip) -> float:
  """Seconds of one run of a Pallas kernel."""
  best = max(one.flops / chip.peak, one.num_bytes / chip.hbm_bandwidth)
  return best / KERNEL_SHARE


def link_share(
  group: Sequence[int], devices: Sequence[jax.Device], links: int
) -> float:
  """Share of a chip's links along the torus dimensions of a group."""
  places = [getattr(devices[n], 'coords', None) for n in group]
  if None in places:
    return 1.0
  used = sum(len(set(along)) > 1 for along in zip(*places, strict=True))
  return max(used, 1) / links


def utilisation(
  flops: float, seconds: float, num_devices: int, chip: Chip
) -> float:
  """Model FLOPs of a step over what the devices could do meanwhile."""
  return flops / (seconds * num_devices * chip.peak)
