"""Times worked out by hand."""

import dataclasses

import pytest

from moejax.parallel.collective_bytes import Collective
from moejax.plan import chips, roofline
from moejax.plan.program_cost import Cost, PallasCall, Work

# 1 TFLOP/s at 1 GHz, 1 GB, 100 GB/s, 30 GB/s over the links of 3 dimensions, 1
# GB/s to other slices.
CHIP = chips.Chip('toy', 1e12, 1e9, 100e9, 30e9, 1000, 3, 1e9)


@dataclasses.dataclass
class Device:
  coords: tuple[int, int, int] | None = None
  platform: str = 'tpu'
  process_index: int = 0


# Two along each of three dimensions.
DEVICES = [Device((x, y, z)) for x in (0, 1) for y in (0, 1) for z in (0, 1)]


def _cost(**changes):
  plain = Cost(
    flops=2e12,
    num_bytes=100e9,
    cycles=3e9,
    rest_bytes=0,
    kernels=(),
    optional_flops=0,
    unknown_loops=0,
  )
  return dataclasses.replace(plain, **changes)


def _collective(sent=10e9, group=(0, 1), hidden=False, optional=False):
  return Collective('all-gather', sent, len(group), 1, optional, group, hidden)


def test_the_longest_of_three_bounds():
  found = roofline.times(_cost(), [_collective(sent=5e9)], CHIP, DEVICES)
  # 2 TFLOP at 1 TFLOP/s; 100 GB at 100 GB/s; 5 GB along one dimension of
  # three, 10 GB/s.
  assert (found.compute, found.memory, found.network) == (2.0, 1.0, 0.5)
  assert (found.roofline, found.bound) == (2.0, 'compute')
  # 3e9 cycles at 1 GHz, and what nothing runs beside.
  assert found.in_turn == 3.0 + 0.5
  slower = roofline.times(_cost(rest_bytes=20e9), [], CHIP, DEVICES)
  assert slower.in_turn == pytest.approx(3.0 + 0.2)


def test_a_kernel_takes_the_longer_of_its_two_times_over_the_assumed_share():
  kernels = (PallasCall('gmm', 1e12, 1e9, 2), PallasCall('gmm', 1e9, 50e9, 1))
  found = roofline.times(_cost(kernels=kernels), [], CHIP, DEVICES)
  assert found.kernels == pytest.approx((2 * 1.0 + 0.5) / 0.7)
  assert found.compute == pytest.approx(2 + 2.001)
  assert found.memory == pytest.approx(1 + 0.52)


def test_what_runs_beside_counts_only_as_far_as_it_is_longer():
  short = [_collective(sent=10e9, hidden=True)]
  assert roofline.times(_cost(), short, CHIP, DEVICES).exposed == 0
  long = [_collective(sent=50e9, hidden=True)]
  assert roofline.times(_cost(), long, CHIP, DEVICES).exposed == 5.0 - 3.0


def test_work_between_the_start_and_the_wait_hides_collectives_in_turn():
  works = (
    Work(0, 0, 2, cycles=1e9, place=3),  # 2 s
    Work(0, 0, 1, cycles=1e9, place=6),  # 1 s
    Work(0, 50e9, 1, place=8),  # no cycles: 0.5 s
  )
  kernels = (PallasCall('gmm', 0.7e12, 0, 1, place=4),)  # 1 s
  cost = _cost(works=works, kernels=kernels)

  def exposed(*moves):
    return roofline.times(cost, moves, CHIP, DEVICES).exposed

  def under_way(seconds, start, end):
    move = _collective(sent=seconds * 10e9, hidden=True)
    return dataclasses.replace(move, start=start, end=end)

  assert exposed(under_way(2.5, 1, 5)) == 0
  assert exposed(under_way(3.5, 1, 5)) == pytest.approx(0.5)
  # The first takes 2.5 s of 3 s, which leaves 0.5 s for the second.
  both = under_way(2.5, 1, 5), under_way(1.5, 2, 5)
  assert exposed(*both) == pytest.approx(1.0)
  # It goes on behind the first wait.
  assert exposed(both[0], under_way(1.5, 2, 7)) == 0
  # Nothing runs before the start, nor behind the wait.
  assert exposed(under_way(0.75, 5, 6)) == pytest.approx(0.75)
  assert exposed(under_way(0.75, 7, 9)) == pytest.approx(0.25)


def test_a_branch_that_may_not_be_taken_costs_nothing():
  found = roofline.times(_cost(), [_collective(optional=True)], CHIP, DEVICES)
  assert found.network == found.exposed == 0


@pytest.mark.parametrize(
  ('group', 'share'),
  [((0, 1), 1 / 3), ((0, 4), 1 / 3), ((0, 1, 2, 3), 2 / 3), (range(8), 1.0)],
)
def test_links_along_the_dimensions_of_a_group(group, share):
  assert roofline.link_share(list(group), DEVICES, 3) == pytest.approx(share)


def test_utilisation():
  assert roofline.utilisation(8e12, 2.0, 8, CHIP) == 0.5


@pytest.mark.parametrize(
  ('name', 'gigahertz'),
  [('v4', 1.05), ('v5e', 1.5), ('v5p', 1.75), ('v6e', 1.75), ('tpu7x', 2.2)],
)
def test_clocks_follow_from_published_peaks(name, gigahertz):
  assert chips.CHIPS[name].clock == pytest.approx(gigahertz * 1e9, rel=0.005)


def test_devices_that_share_a_chip():
  half = chips.CHIPS['tpu7x'].split(2)
  assert half.peak == 2307e12 / 2
  assert half.hbm == 96 * 2**30
  assert half.clock == chips.CHIPS['tpu7x'].clock


def test_between_slices_it_is_the_slow_network():
  slow = Collective(
    'all-reduce', 2e9, 2, 1, optional=False, hidden=True, between=True
  )
  found = roofline.times(_cost(), [_collective(sent=5e9), slow], CHIP, DEVICES)
  # 2 GB at 1 GB/s, which the 3 s of fusions hide.
  assert found.network == 0.5 + 2.0
  assert found.in_turn == 3.0 + 0.5


# Two hosts of four GPUs; NVLink has 30 GB/s, a network card 1 GB/s.
GPUS = [Device(None, 'gpu', n // 4) for n in range(8)]


@pytest.mark.parametrize(
  ('kind', 'group', 'rate'),
  [
    ('all-gather', (0, 1, 2, 3), 30e9),
    # One of each host: through one card each.
    ('all-gather', (0, 4), 1e9),
    # All of both hosts: a ring through four cards of each.
    ('all-gather', range(8), 4e9),
    ('all-to-all', (4, 5, 6, 7), 30e9),
    # Of seven others four are on the other host.
    ('all-to-all', range(8), 7 / 4 * 1e9),
    ('collective-permute', (3, 4), 1e9),
  ],
)
def test_rates_between_gpus(kind, group, rate):
  move = Collective(kind, 10e9, 8, 1, False, tuple(group))
  found = roofline.times(_cost(), [move], CHIP, GPUS)
  assert found.network == pytest.approx(10e9 / rate)


def test_without_cycles_every_instruction_takes_its_own_time():
  """A product of 2 s at peak, a copy of 3 s, run twice; not the longer sum."""
  works = (Work(2e12, 1e9, 1), Work(0.0, 300e9, 2))
  found = roofline.times(_cost(works=works, cycles=0), [], CHIP, GPUS)
  assert found.fusions == pytest.approx(2 / 0.7 + 2 * 3)
  assert (found.name, found.rest) == ('in turn', 0)
