"""Two estimates of the seconds of a step, from the work of its program.

The roofline estimate is the longest of three times, each at the chip's peak:

  compute   FLOPs of matrix products and kernels / peak
  memory    bytes to and from HBM / bandwidth
  network   bytes sent / bandwidth of the links that the collective can use

The estimate in turn is a sum: one instruction after the other.

  fusions      for TPUs the cycles that the compiler wrote beside each fusion,
               every loop counted as often as it runs, over the clock. The
               compiler for GPUs writes none: there it is the longer of FLOPs /
               peak, over PRODUCT_SHARE, and bytes / bandwidth of each
               instruction
  kernels      the longer of FLOPs / peak and bytes / bandwidth of each Pallas
               kernel, over KERNEL_SHARE, which is assumed
  rest         for TPUs: row gathers and some copies, of which the compiler has
               no estimate, at the full bandwidth of HBM
  collectives  at the network time above, less the time of the work between the
               place where the program starts a collective and that where it
               waits for it, one collective at a time. Of those of which it does
               not say where it waits, the time counts only as far as it exceeds
               that of fusions, kernels and rest together

Neither estimate was compared with a chip.

The network of a TPU is a torus. A collective whose devices differ along one of
its three dimensions can use a third of a chip's links. Example, v5p:4x4x4, 600
GB/s: fsdp=64 spans all three dimensions, 600 GB/s; expert=4 spans one, 200
GB/s. Between slices the network is that of the data centre: v5p 6.25 GB/s a
chip.

GPUs that NVLink joins reach each other at NVLink's rate. Where the group of a
collective has GPUs of several hosts, a ring passes through the network cards of
all its GPUs on a host together, and an all-to-all sends through each card what
goes to other hosts.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import jax

from moejax.parallel.collective_bytes import Collective
from moejax.plan.chips import Chip
from moejax.plan.program_cost import Cost, PallasCall, Work

# Share of its roofline that a Pallas kernel reaches: assumed, not measured.
KERNEL_SHARE = 0.7
# Share of its peak that a matrix product reaches on a GPU: assumed as well.
PRODUCT_SHARE = 0.7
# Collectives in which each device sends something else to every other one.
_TO_EACH = ('all-to-all', 'ragged-all-to-all')


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one step on one device.

  Attributes:
    compute: seconds of matrix products and kernels, at peak.
    memory: seconds of the bytes to and from HBM.
    network: seconds of all collectives.
    fusions: seconds of all fusions.
    kernels: seconds of Pallas kernels, at KERNEL_SHARE of their roofline.
    rest: seconds of row gathers and some copies.
    exposed: seconds of collectives that no other work hides.
    by_compiler: whether `fusions` are the compiler's cycles.
  """

  compute: float
  memory: float
  network: float
  fusions: float
  kernels: float
  rest: float
  exposed: float
  by_compiler: bool = True

  @property
  def roofline(self) -> float:
    """The roofline estimate: the longest of its three times."""
    return max(self.compute, self.memory, self.network)

  @property
  def bound(self) -> str:
    """Name of the longest of the three times."""
    names = ('compute', 'memory', 'network')
    return max(names, key=lambda name: getattr(self, name))

  @property
  def name(self) -> str:
    """What the estimate in turn is called."""
    return 'compiler' if self.by_compiler else 'in turn'

  def seconds(self) -> dict[str, float]:
    """All parts by their names."""
    parts = dataclasses.asdict(self)
    del parts['by_compiler']
    return parts

  @property
  def in_turn(self) -> float:
    """The estimate in turn: the sum of its four terms."""
    return self.fusions + self.kernels + self.rest + self.exposed


def times(
  cost: Cost,
  collectives: Iterable[Collective],
  chip: Chip,
  devices: Sequence[jax.Device],
) -> Times:
  """Both estimates of a step.

  Args:
    cost: work of the program on one device.
    collectives: collectives of the program; those in branches that may not be
      taken do not count.
    chip: peak rates of one device.
    devices: devices of the mesh, flat; of its first slice if there are several.
      Their `coords` say which links lie between them; their processes, which
      GPUs NVLink joins.
  """
  always = [move for move in collectives if not move.optional]
  sent = [(move, _seconds(move, chip, devices)) for move in always]
  by_compiler = devices[0].platform != 'gpu'
  fusions, rest = cost.cycles / chip.clock, cost.rest_bytes / chip.hbm_bandwidth
  if not by_compiler:
    fusions, rest = sum(w.times * alone(w, chip) for w in cost.works), 0.0
  kernels = sum(k.times * kernel(k, chip) for k in cost.kernels)
  somewhere = sum(t for move, t in sent if move.hidden and move.end is None)
  return Times(
    compute=(cost.flops + cost.kernel_flops) / chip.peak,
    memory=(cost.num_bytes + cost.kernel_bytes) / chip.hbm_bandwidth,
    network=sum(seconds for _, seconds in sent),
    fusions=fusions,
    kernels=kernels,
    rest=rest,
    exposed=_waited(cost, sent, chip, by_compiler=by_compiler)
    + max(0.0, somewhere - fusions - kernels - rest),
    by_compiler=by_compiler,
  )


def _waited(
  cost: Cost,
  sent: list[tuple[Collective, float]],
  chip: Chip,
  *,
  by_compiler: bool,
) -> float:
  """Seconds in which the program waits for collectives and does nothing else.

  Work between the start of collectives and the waits for them hides the first
  of them, then the next.

  Args:
    cost: work of the program, with its places.
    sent: collectives and their seconds.
    chip: peak rates of one device.
    by_compiler: whether instructions have the compiler's cycles.
  """
  events: list[tuple[int, float, Collective | None]] = [
    (k.place, k.times * kernel(k, chip), None) for k in cost.kernels
  ]
  for work in cost.works:
    seconds = work.cycles / chip.clock if by_compiler else alone(work, chip)
    seconds = seconds or work.num_bytes / chip.hbm_bandwidth
    events.append((work.place, work.times * seconds, None))
  events += [(move.start, seconds, move) for move, seconds in sent]
  waited, under_way = 0.0, list[tuple[int, float]]()
  for place, seconds, move in sorted(events, key=lambda event: event[0]):
    waited += sum(left for end, left in under_way if end <= place)
    under_way = [(end, left) for end, left in under_way if end > place]
    if move is None:
      work_left, still = seconds, list[tuple[int, float]]()
      for end, left in under_way:
        hidden = min(left, work_left)
        work_left -= hidden
        still.append((end, left - hidden))
      under_way = still
    elif move.end is not None:
      under_way.append((move.end, seconds))
    elif not move.hidden:
      waited += seconds
  return waited + sum(left for _, left in under_way)


def _seconds(
  move: Collective, chip: Chip, devices: Sequence[jax.Device]
) -> float:
  """Seconds of all runs of a collective, if nothing else ran."""
  rate = chip.dcn_bandwidth
  if not move.between:
    rate = _rate(move, chip, devices)
  return move.sent * move.times / rate


def kernel(call: PallasCall, chip: Chip) -> float:
  """Seconds of one run of a Pallas kernel."""
  best = max(call.flops / chip.peak, call.num_bytes / chip.hbm_bandwidth)
  return best / KERNEL_SHARE


def alone(work: Work, chip: Chip) -> float:
  """Seconds of one run of an instruction of which the compiler says nothing."""
  return max(
    work.flops / chip.peak / PRODUCT_SHARE, work.num_bytes / chip.hbm_bandwidth
  )


def _rate(move: Collective, chip: Chip, devices: Sequence[jax.Device]) -> float:
  """Bytes/s at which a device takes part in a collective of one slice."""
  if devices[0].platform != 'gpu':
    return chip.ici_bandwidth * link_share(move.group, devices, chip.links)
  hosts = collections.Counter(devices[n].process_index for n in move.group)
  if len(hosts) == 1:
    return chip.ici_bandwidth
  joined = max(hosts.values())
  if move.kind in _TO_EACH:
    outside = (len(move.group) - joined) / (len(move.group) - 1)
    return min(chip.ici_bandwidth, chip.dcn_bandwidth / outside)
  return min(chip.ici_bandwidth, chip.dcn_bandwidth * joined)


def link_share(
  group: Sequence[int], devices: Sequence[jax.Device], links: int
) -> float:
  """Share of a chip's links along the torus dimensions that a group spans.

  Args:
    group: indices into `devices`.
    devices: all devices; without `coords` (as on CPU) the share is 1.
    links: dimensions of the torus.
  """
  places = [getattr(devices[n], 'coords', None) for n in group]
  if None in places:
    return 1.0
  used = sum(len(set(along)) > 1 for along in zip(*places, strict=True))
  return max(used, 1) / links


def utilisation(
  flops: float, seconds: float, num_devices: int, chip: Chip
) -> float:
  """Model FLOPs of a step over the FLOPs of the devices at peak in its time."""
  return flops / (seconds * num_devices * chip.peak)
