"""The collectives of a compiled program, and the bytes that they move.

  ops = collectives(jax.jit(f).lower(x).compile().as_text())
  by_kind(ops)       {'all-gather': 1536.0, 'all-reduce': 96.0}
  by_axis(ops, {'data': 2, 'fsdp': 4})       {('all-gather', 'fsdp'): 1536.0,
                                              ('all-reduce', 'data'): 96.0}

Bytes are those that one device sends; it receives as many. They are those of
the cheapest known algorithm, with n devices in a group and arrays of s bytes on
each device (Thakur, Rabenseifner and Gropp 2005):

  all-gather          (n - 1) s          s bytes go in
  reduce-scatter      (n - 1) s          s bytes come out
  all-reduce          2 (n - 1) / n s
  all-to-all          (n - 1) / n s      one n-th stays
  collective-permute  s

Example, a line of the text and the bytes read from it, on groups of 4:

  %y = f32[32,16]{1,0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}
  32 * 16 numbers of 4 bytes come out, a quarter went in: 3 * 512 bytes

For several TPU slices XLA compiles the program of one slice, whose devices are
those of that slice. Data goes to the other slices by pairs of `send` and
`recv`, and each `send` names the collective that it is part of:

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

# By kind, the bytes that a device sends: from the bytes of its result and the n
# devices of a group. For a ragged all-to-all the result has room for the most
# that can be received, so this is an upper bound.
_SENT: dict[str, Callable[[float, int], float]] = {
  'all-gather': lambda result, n: result * (n - 1) / n,
  'all-reduce': lambda result, n: 2 * result * (n - 1) / n,
  'all-to-all': lambda result, n: result * (n - 1) / n,
  'collective-permute': lambda result, _: result,
  'ragged-all-to-all': lambda result, n: result * (n - 1) / n,
  'reduce-scatter': lambda result, n: result * (n - 1),
}
KINDS = frozenset(_SENT)
# By kind, the bytes that a device sends between n slices: from the bytes of the
# operand of its `send`.
_BETWEEN: dict[str, Callable[[float, int], float]] = {
  'all-gather': lambda operand, n: operand * (n - 1),
  'all-reduce': lambda operand, n: 2 * operand * (n - 1) / n,
  'all-to-all': lambda operand, n: operand * (n - 1) / n,
  'reduce-scatter': lambda operand, n: operand * (n - 1) / n,
}
# Asynchronous starts whose type lists their operands, then their results.
_LIST_OPERANDS = ('all-gather-start', 'reduce-scatter-start')
# XLA for TPU writes a reduce-scatter as an all-reduce and a slice of it in a
# fusion of this name.
_REDUCE_SCATTER = 'all-reduce-scatter'
BETWEEN_SLICES = 'between slices'
_BETWEEN_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a compiled program.

  Attributes:
    kind: its opcode in XLA, such as 'all-gather'.
    sent: bytes that one device sends in one run of it.
    devices: number of devices in one group.
    times: number of its runs in one run of the program. A loop whose trip count
      the text does not say counts as one trip.
    optional: whether it is in a branch that may not be taken.
    group: the devices of its first group, by their index in the program. For a
      collective-permute: the two devices of the first pair between which data
      moves.
    hidden: whether computation can run at the same time: the collective is
      started in one place and awaited in another, or is part of a fusion.
    between: whether it goes to other slices, over the data centre's network.
      Then `devices` is the number of slices, and `group` is empty.
    start: where in the program's walk it begins.
    end: where the program waits for it; None if it waits at once, or if the
      text does not say where.
  """

  kind: str
  sent: float
  devices: int
  times: int
  optional: bool
  group: tuple[int, ...] = ()
  hidden: bool = False
  between: bool = False
  start: int = 0
  end: int | None = None

  def axes(self, sizes: Mapping[str, int]) -> str:
    """The mesh axes along which the collective moves data, joined by '+'.

    Args:
      sizes: sizes of the mesh's axes in their order, {'data': 2, 'fsdp': 4}.
    """
    coordinates = np.unravel_index(
      np.array(self.group, int), tuple(sizes.values())
    )
    return '+'.join(
      name
      for name, coordinate in zip(sizes, coordinates, strict=True)
      if len(set(coordinate.tolist())) > 1
    )


def collectives(text: str) -> list[Collective]:
  """All collectives in the text of a compiled program, in the text's order.

  Collectives of a single device move nothing and are left out.
  """
  return of_program(program_text.Program(text))


def of_program(
  program: program_text.Program, slices: int = 1
) -> list[Collective]:
  """All collectives of a parsed program, in the text's order.

  Args:
    program: the program.
    slices: number of TPU slices that it was compiled for.

  Raises:
    ValueError: the replica groups are written in a way that is not known.
  """
  ops, waits = [], _Waits()
  for place, at in enumerate(program.walk()):
    start = waits.start(place, at)
    between = _BETWEEN_KIND.search(at.instruction.rest)
    if between and at.instruction.opcode == 'send':
      ops.append(_to_other_slices(at, between[1], slices, start))
      continue
    kind = at.instruction.opcode.removesuffix('-start')
    if kind not in _SENT:
      continue
    group = _group(at.instruction.rest, program.num_devices)
    devices = len(group)
    if 'source_target_pairs' in at.instruction.rest and devices:
      devices = program.num_devices
    if devices > 1:
      result, fused = result_bytes(at.instruction), at.fused
      if fused and at.computation.startswith(_REDUCE_SCATTER):
        kind, result, fused = 'reduce-scatter', result / devices, False
      sent = _SENT[kind](result, devices)
      hidden = start in waits.started or fused
      ops.append(
        Collective(
          kind,
          sent,
          devices,
          at.times,
          at.optional,
          group,
          hidden,
          start=start,
        )
      )
  return [dataclasses.replace(op, end=waits.ends.get(op.start)) for op in ops]


class _Waits:
  """Where asynchronous work begins and where the program waits for it.

  XLA writes `all-gather-start` and `all-gather-done`; or a `call-start` of a
  computation in which the collective is, for the SparseCores of a TPU, with
  `call-done` behind it and perhaps a `call-update` between.

  Attributes:
    started: places of starts, in the walk.
    ends: by place of a start, the place of the wait for it.
  """

  def __init__(self) -> None:
    self.started: set[int] = set()
    self.ends: dict[int, int] = {}
    self._by_name: dict[tuple[str, str], int] = {}
    self._owners: dict[str, int] = {}

  def start(self, place: int, at: program_text.Occurrence) -> int:
    """The place where this instruction begins: that of the start it is part of.

    Args:
      place: of the instruction.
      at: the instructions, one after the other as they are walked.
    """
    one = at.instruction
    owner = self._owners.get(at.computation)
    if owner is None and (
      one.opcode.endswith('-start') or one.opcode == 'send'
    ):
      owner = place
      self.started.add(place)
      self._by_name[at.computation, one.name] = place
    elif owner is None:
      if one.opcode.endswith(('-update', '-done')) and one.operands:
        start = self._by_name.get((at.computation, one.operands[0]))
        if start is not None and one.opcode.endswith('-done'):
          self.ends[start] = place
        elif start is not None:
          self._by_name[at.computation, one.name] = start
      return place
    for name in program_text.called(one):
      self._owners[name] = owner
    return owner


def by_kind(
  ops: Iterable[Collective], *, optional: bool = False
) -> dict[str, float]:
  """Bytes that one device sends in one run of the program, by kind.

  Args:
    ops: from `collectives`.
    optional: whether collectives in branches that may not be taken count too.
  """
  sums: dict[str, float] = collections.defaultdict(float)
  for op in ops:
    if optional or not op.optional:
      sums[op.kind] += op.sent * op.times
  return dict(sums)


def by_axis(
  ops: Iterable[Collective],
  sizes: Mapping[str, int],
  *,
  optional: bool = False,
) -> dict[tuple[str, str], float]:
  """Bytes that one device sends in one run of the program, by kind and axes.

  Args:
    ops: from `collectives`.
    sizes: sizes of the mesh's axes, as in `Collective.axes`; for a program for
      several slices, those within one slice.
    optional: whether collectives in branches that may not be taken count too.

  Returns:
    Bytes by (kind, axes); the axes are BETWEEN_SLICES for collectives between
    slices.
  """
  sums: dict[tuple[str, str], float] = collections.defaultdict(float)
  for op in ops:
    if optional or not op.optional:
      axes = BETWEEN_SLICES if op.between else op.axes(sizes)
      sums[op.kind, axes] += op.sent * op.times
  return dict(sums)


def _to_other_slices(
  at: program_text.Occurrence, name: str, slices: int, start: int
) -> Collective:
  """The collective of one `send`; until its `send-done` others may run.

  Args:
    at: the `send`.
    name: kind of the collective as the attribute spells it: 'ALL_REDUCE'.
    slices: number of slices.
    start: its place in the walk.
  """
  kind = name.lower().replace('_', '-')
  array = program_text.shapes(at.instruction.type)[0]
  operand = program_text.num_bytes(*array)
  sent = _BETWEEN.get(kind, lambda operand, _: operand)(operand, slices)
  return Collective(
    kind,
    sent,
    slices,
    at.times,
    at.optional,
    hidden=True,
    between=True,
    start=start,
  )


def result_bytes(instruction: program_text.Instruction) -> float:
  """Bytes of a collective's result on one device."""
  arrays = program_text.shapes(instruction.type)
  sizes = [program_text.num_bytes(*array) for array in arrays]
  if instruction.opcode in _LIST_OPERANDS:
    sizes = sizes[len(sizes) // 2 :]
  if instruction.opcode == 'collective-permute-start':
    sizes = sizes[1:2]
  return sum(sizes)


def _group(line: str, num_devices: int) -> tuple[int, ...]:
  """The devices of the first of several groups, from an instruction's text."""
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
  """Groups [2,4]<=[4,2]T(1,0): 0 to 7 of shape 4 x 2, transposed, 4 a group."""
  return tuple(_transposed(match[2], match[3])[: int(match[1])].tolist())


def _transposed(shape_text: str, order_text: str | None) -> np.ndarray:
  """0, 1, 2, ... in a shape, its dimensions put in another order, as a list."""
  numbers = lambda text: [int(n) for n in text.split(',')]
  shape = numbers(shape_text)
  devices = np.arange(math.prod(shape)).reshape(shape)
  if order_text:
    devices = devices.transpose(numbers(order_text))
  return devices.reshape(-1)


def _on_axes(match: re.Match) -> tuple[int, ...]:
  """Groups along axes of a mesh: mesh['a'=2,'b'=4] {'b'}.

  An axis may be split, and the group along a factor of it: {'b':(1)2}, which is
  `b` split after a factor of 1 and the next factor of 2. The order in which the
  devices lie on the mesh may be stated after the mesh.
  """
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
  strides, size = {}, 1
  for name in reversed(sizes):
    strides[name], size = size, size * sizes[name]
  steps = []
  for name, before, factor in re.findall(
    r"'(\w+)'(?::\((\d+)\)(\d+))?", match[4]
  ):
    length = int(factor) if factor else sizes[name]
    after = sizes[name] // (int(before) * length) if factor else 1
    stride = strides[name] * after
    steps.append([i * stride for i in range(length)])
  indices = [sum(offsets) for offsets in itertools.product(*steps)]
  if match[2]:
    devices = _transposed(match[2], match[3])
    indices = [int(devices[index]) for index in indices]
  return tuple(sorted(indices))


# The ways in which XLA writes groups; no groups, the last, mean all devices.
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
