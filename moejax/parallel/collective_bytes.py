"""The collectives of a compiled program, and the bytes that they move.

  found = collectives(jax.jit(f).lower(x).compile().as_text())
  by_kind(found)     {'all-gather': 1536.0, 'all-reduce': 96.0}
  by_axis(found, {'data': 2, 'fsdp': 4})     {('all-gather', 'fsdp'): 1536.0,
                                              ('all-reduce', 'data'): 96.0}

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

A program for several TPU slices is one slice's: its devices are those of one,
and what goes to other slices is in pairs of `send` and `recv`, of which each
names the collective that it is part of:

  %s = (f32[8], u32[], token[]) send(%x, %t), is_host_transfer=true,
    frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",
    _xla_megascale_transfer_type="ALL_REDUCE"}
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from moejax.parallel import program_text

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
KINDS = frozenset(_SENT)
# The same between n slices, from the bytes of what is sent.
_BETWEEN: dict[str, Callable[[float, int], float]] = {
  'all-gather': lambda given, n: given * (n - 1),
  'all-reduce': lambda given, n: 2 * given * (n - 1) / n,
  'all-to-all': lambda given, n: given * (n - 1) / n,
  'reduce-scatter': lambda given, n: given * (n - 1) / n,
}
BETWEEN_SLICES = 'between slices'
_BETWEEN_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction of a compiled program.

  Attributes:
    kind: its name in XLA, 'all-gather' say.
    sent: bytes that a device sends in one run of it.
    devices: of one group.
    times: how often it runs, by the loops around it. A loop of which the text
      does not tell the number of trips counts as one.
    optional: whether it is in a branch that may not be taken.
    group: the devices of its first group, by their place in the program; of a
      collective-permute those between which something moves.
    hidden: whether it is started in one place and waited for in another, or
      is part of a fusion, so that something can be computed meanwhile.
    between: whether it goes to other slices, over the data centre's network;
      `devices` are the slices then, and `group` is empty.
  """

  kind: str
  sent: float
  devices: int
  times: int
  optional: bool
  group: tuple[int, ...] = ()
  hidden: bool = False
  between: bool = False

  def axes(self, sizes: Mapping[str, int]) -> str:
    """The mesh axes along which it moves data, joined by '+'.

    Args:
      sizes: of the mesh's axes in their order, {'data': 2, 'fsdp': 4}.
    """
    places = np.unravel_index(np.array(self.group, int), tuple(sizes.values()))
    return '+'.join(
      name
      for name, place in zip(sizes, places, strict=True)
      if len(set(place.tolist())) > 1
    )


def collectives(text: str) -> list[Collective]:
  """All collectives in the text of a compiled program, in its order.

  Those among a single device move nothing and are left out.
  """
  return of_program(program_text.Program(text))


def of_program(
  program: program_text.Program, slices: int = 1
) -> list[Collective]:
  """The same of a program that is parsed already, for so many slices."""
  found = []
  for at in program.walk():
    between = _BETWEEN_KIND.search(at.one.rest)
    if between and at.one.opcode == 'send':
      found.append(_to_other_slices(at, between[1], slices))
      continue
    kind = at.one.opcode.removesuffix('-start')
    if kind not in _SENT:
      continue
    group = _group(at.one.rest, program.num_devices)
    devices = len(group)
    if 'source_target_pairs' in at.one.rest and devices:
      devices = program.num_devices
    if devices > 1:
      sent = _SENT[kind](_result_bytes(at.one), devices)
      hidden = at.one.opcode != kind or at.fused
      found.append(
        Collective(kind, sent, devices, at.times, at.optional, group, hidden)
      )
  return found


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


def by_axis(
  found: Iterable[Collective],
  sizes: Mapping[str, int],
  *,
  optional: bool = False,
) -> dict[tuple[str, str], float]:
  """The same by kind and mesh axes; see `Collective.axes`.

  Args:
    found: from `collectives`.
    sizes: of the mesh's axes, in a program for several slices those within one.
    optional: whether all branches are counted, or what always runs.
  """
  sums: dict[tuple[str, str], float] = collections.defaultdict(float)
  for one in found:
    if optional or not one.optional:
      axes = BETWEEN_SLICES if one.between else one.axes(sizes)
      sums[one.kind, axes] += one.sent * one.times
  return dict(sums)


def _to_other_slices(at: program_text.At, name: str, slices: int) -> Collective:
  """One `send`, which something may run beside until its `send-done`."""
  kind = name.lower().replace('_', '-')
  given = program_text.num_bytes(*program_text.shapes(at.one.type)[0])
  sent = _BETWEEN.get(kind, lambda given, _: given)(given, slices)
  return Collective(
    kind, sent, slices, at.times, at.optional, hidden=True, between=True
  )


def _result_bytes(one: program_text.Instruction) -> float:
  """Bytes of what comes out on one device."""
  sizes = [
    program_text.num_bytes(*shape) for shape in program_text.shapes(one.type)
  ]
  if one.opcode == 'all-gather-start':
    # The start of an asynchronous one: what goes in, then what comes out.
    sizes = sizes[len(sizes) // 2 :]
  if one.opcode == 'collective-permute-start':
    sizes = sizes[1:2]
  return sum(sizes)


def _group(line: str, num_devices: int) -> tuple[int, ...]:
  """Which devices take part together, the first of several groups."""
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', line)
  if pairs:
    moves = re.findall(r'(\d+),(\d+)', pairs[1])
    first = [m for m in moves if m[0] != m[1]][:1]
    return tuple(int(n) for move in first for n in move)
  groups = line.partition('replica_groups=')[2]
  for pattern, read in _GROUPS:
    match = pattern.match(groups)
    if match:
      return read(match) or tuple(range(num_devices))
  raise ValueError(f'unknown replica groups: {groups[:80]!r}')


def _listed(match: re.Match) -> tuple[int, ...]:
  return tuple(int(n) for n in match[1].split(',') if n)


def _iota(match: re.Match) -> tuple[int, ...]:
  """[2,4]<=[4,2]T(1,0): numbers in that shape, transposed, in rows of 4."""
  return tuple(_transposed(match[2], match[3])[: int(match[1])].tolist())


def _transposed(shape_text: str, order_text: str | None) -> np.ndarray:
  """0, 1, 2, ... in a shape whose dimensions are then put in another order."""
  numbers = lambda text: [int(n) for n in text.split(',')]
  shape = numbers(shape_text)
  devices = np.arange(math.prod(shape)).reshape(shape)
  if order_text:
    devices = devices.transpose(numbers(order_text))
  return devices.reshape(-1)


def _on_axes(match: re.Match) -> tuple[int, ...]:
  """mesh['a'=2,'b'=4] {'b'}, or of a part of an axis: {'b':(1)2}.

  Behind the axes may stand in which order the devices are on them.
  """
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
  strides, size = {}, 1
  for name in reversed(sizes):
    strides[name], size = size, size * sizes[name]
  steps = []
  for name, before, part in re.findall(
    r"'(\w+)'(?::\((\d+)\)(\d+))?", match[4]
  ):
    own = int(part) if part else sizes[name]
    behind = sizes[name] // (int(before) * own) if part else 1
    stride = strides[name] * behind
    steps.append([place * stride for place in range(own)])
  places = [sum(one) for one in itertools.product(*steps)]
  if match[2]:
    devices = _transposed(match[2], match[3])
    places = [int(devices[place]) for place in places]
  return tuple(sorted(places))


# The ways in which XLA writes groups; none for all devices.
_GROUPS: tuple[tuple[re.Pattern, Callable[[re.Match], tuple]], ...] = (
  # All of them listed, {{0,1},{2,3}} say.
  (re.compile(r'\{\{([\d,]*)\}'), _listed),
  # Their number and size: [2,4]<=[8].
  (re.compile(r'\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'), _iota),
  # A mesh and axes of it: mesh['a'=2,'b'=4] {'b'}.
  (
    re.compile(
      r'mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?'
      r' \{([^}]*)\}'
    ),
    _on_axes,
  ),
  (re.compile(r'\{\}|$'), lambda _: ()),
)
