"""The collectives of a compiled program, and the bytes that they move.

  found = collectives(jax.jit(f).lower(x).compile().as_text())
  by_kind(found)     {'all-gather': 1536.0, 'all-reduce': 96.0}

Bytes are those that one device sends (and receives as many) when the collective
is done in the cheapest known way, with n devices in a group and arrays of s
bytes on each device (Thakur, Rabenseifner and Gropp 2005):

  all-gather          (n - 1) s          s bytes go in
  reduce-scatter      (n - 1) s          s bytes come out
  all-reduce          2 (n - 1) / n s
  all-to-all          (n - 1) / n s      one n-th stays
  collective-permute  s

Example, a line of the text and what is read in it, on groups of 4:

  %y = f32[32,16]{1,0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}
  32 * 16 numbers of 4 bytes come out, a quarter went in: 3 * 512 bytes
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator

# By kind, the bytes that a device sends: from those of the result and n. Of a
# ragged all-to-all it is the most that can be received.
_SENT: dict[str, Callable[[float, int], float]] = {
  'all-gather': lambda result, n: result * (n - 1) / n,
  'all-reduce': lambda result, n: 2 * result * (n - 1) / n,
  'all-to-all': lambda result, n: result * (n - 1) / n,
  'collective-permute': lambda result, _: result,
  'ragged-all-to-all': lambda result, n: result * (n - 1) / n,
  'reduce-scatter': lambda result, n: result * (n - 1),
}
_LINE = re.compile(
  r'\s+(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) '
  rf'(?P<kind>{"|".join(sorted(_SENT, reverse=True))})(?P<start>-start)?\('
)
_COMPUTATION = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_CALLS = re.compile(
  r'(?:body|condition|calls|to_apply|true_computation|false_computation|'
  r'branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction of a compiled program.

  Attributes:
    kind: its name in XLA, 'all-gather' say.
    sent: bytes that a device sends in one run of it.
    devices: of one group.
    times: how often it runs, by the loops around it. A loop of which XLA does
      not know the number of trips counts as one.
    optional: whether it is in a branch that may not be taken.
  """

  kind: str
  sent: float
  devices: int
  times: int
  optional: bool


def collectives(text: str) -> list[Collective]:
  """All collectives in the text of a compiled program, in its order.

  Those among a single device move nothing and are left out.
  """
  total = re.search(r'num_partitions=(\d+)', text)
  found = _Found(_computations(text), int(total[1]) if total else 1)
  return [one for one in found.within('ENTRY', 1, False) if one.devices > 1]


def by_kind(
  found: Iterable[Collective], *, optional: bool = False
) -> dict[str, float]:
  """Bytes that a device sends, by kind, all runs together.

  Args:
    found: from `collectives`.
    optional: whether all branches are counted, or what always runs.
  """
  sums: dict[str, float] = collections.defaultdict(float)
  for one in found:
    if optional or not one.optional:
      sums[one.kind] += one.sent * one.times
  return dict(sums)


def _computations(text: str) -> dict[str, list[str]]:
  """The lines of each computation, by its name; the first to run is ENTRY."""
  lines: dict[str, list[str]] = {}
  inside: list[str] = []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      inside = lines['ENTRY' if header['entry'] else header['name']] = []
    else:
      inside.append(line)
  return lines


@dataclasses.dataclass(frozen=True)
class _Found:
  computations: dict[str, list[str]]
  num_devices: int

  def within(
    self, name: str, times: int, optional: bool
  ) -> Iterator[Collective]:
    for line in self.computations[name]:
      match = _LINE.match(line)
      if match:
        devices = _group_size(line, self.num_devices)
        sent = _SENT[match['kind']](_result_bytes(match), devices)
        yield Collective(match['kind'], sent, devices, times, optional)
      trips = _TRIPS.search(line)
      branches = ' conditional(' in line
      for names in _CALLS.findall(line):
        for callee in re.findall(r'[\w.-]+', names):
          yield from self.within(
            callee, times * int(trips[1] if trips else 1), optional or branches
          )


def _result_bytes(match: re.Match) -> float:
  """Bytes of what comes out on one device."""
  sizes = []
  for dtype, dims in _SHAPE.findall(match['type']):
    bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
    numbers = 1
    for dim in dims.split(','):
      numbers *= int(dim or 1)
    sizes.append(numbers * bits / 8)
  if match['start'] and match['kind'] == 'all-gather':
    # The start of an asynchronous one: what goes in, then what comes out.
    sizes = sizes[len(sizes) // 2 :]
  if match['start'] and match['kind'] == 'collective-permute':
    sizes = sizes[1:2]
  return sum(sizes)


def _group_size(line: str, num_devices: int) -> int:
  """How many devices take part together."""
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', line)
  if pairs:
    moves = [a != b for a, b in re.findall(r'(\d+),(\d+)', pairs[1])]
    return num_devices if any(moves) else 1
  groups = line.partition('replica_groups=')[2]
  for pattern, size in _GROUPS:
    match = pattern.match(groups)
    if match:
      return size(match) or num_devices
  raise ValueError(f'unknown replica groups: {groups[:80]!r}')


def _on_axes(match: re.Match) -> int:
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
  names = re.findall(r"'(\w+)'", match[2])
  return math.prod(int(sizes[name]) for name in names)


# The ways in which XLA writes groups; 0 for all devices.
_GROUPS: tuple[tuple[re.Pattern, Callable[[re.Match], int]], ...] = (
  # All of them listed, {{0,1},{2,3}} say.
  (re.compile(r'\{\{([\d,]*)\}'), lambda match: match[1].count(',') + 1),
  # Their number and size: [2,4]<=[8].
  (re.compile(r'\[\d+,(\d+)\]'), lambda match: int(match[1])),
  # A mesh and axes of it: mesh['a'=2,'b'=4] {'b'}.
  (re.compile(r'mesh\[(.*?)\] \{([^}:]*)\}'), _on_axes),
  (re.compile(r'\{\}|$'), lambda _: 0),
)
