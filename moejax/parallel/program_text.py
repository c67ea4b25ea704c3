"""The text of a compiled program, instruction by instruction as it runs.

  for at in walk(jax.jit(f).lower(x).compile().as_text()):
    at.one.opcode, at.times, at.optional, at.fused

An instruction in a loop runs as often as the loops around it say, one in a
branch may not run at all, one in a fusion is part of another. Example:

  %body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
    ...
    %y = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, ...
  }
  ENTRY %main (x: f32[8,8]) -> f32[8,8] {
    %w = (s32[], f32[8,8]) while(%t), condition=%cond, body=%body

gives the `dot` with 5 times, if `%cond` compares a counter with 5. XLA for CPU
writes trip counts beside the loop; XLA for TPU does not, and there they are
read from the condition: counters of JAX's loops go from 0 in steps of 1.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) '
  r'(?P<opcode>[a-z][a-z0-9-]*)\('
)
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{[^}]*\})?')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Where an instruction names what it runs, and what of that is worth a look:
# not the sums inside of a reduction.
_CALLED = re.compile(
  r'(body|condition|calls|to_apply|true_computation|false_computation|'
  r'branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)'
)
_RUNS_IT = ('call', 'call-start', 'async-start', 'custom-call')
_PASSED_ON = ('copy', 'bitcast', 'copy-start', 'copy-done', 'convert')
ENTRY = 'ENTRY'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: without the percent sign.
    opcode: 'all-gather', 'fusion' ...
    type: what comes out, as text: 'bf16[8,128]{1,0}' or a tuple.
    rest: all behind the opcode's parenthesis.
    root: whether it is what its computation returns.
  """

  name: str
  opcode: str
  type: str
  rest: str
  root: bool

  @property
  def operands(self) -> list[str]:
    """The names of what goes in."""
    depth = 1
    for end, letter in enumerate(self.rest):
      depth += (letter == '(') - (letter == ')')
      if not depth:
        return re.findall(r'%([\w.-]+)', self.rest[:end])
    return []

  def attribute(self, name: str) -> str:
    """What stands behind `name=`, up to the next space; '' if nothing."""
    found = re.search(rf'\b{name}=(\S*)', self.rest)
    return found[1].rstrip(',') if found else ''


@dataclasses.dataclass(frozen=True)
class At:
  """An instruction, and when it runs.

  Attributes:
    one: the instruction.
    inside: the computation that it is in, by name.
    times: how often it runs, by the loops around it.
    optional: whether it is in a branch that may not be taken.
    fused: whether it is part of a fusion, which does not write it to memory.
    known: whether all loops around it had a known number of trips; one that
      has none counts as one trip.
  """

  one: Instruction
  inside: str
  times: int = 1
  optional: bool = False
  fused: bool = False
  known: bool = True


class Program:
  """A compiled program's computations, by name; the first to run is ENTRY."""

  def __init__(self, text: str):
    self.computations = _computations(text)
    self._names: dict[str, dict[str, Instruction]] = {}
    total = re.search(r'num_partitions=(\d+)', text)
    self.num_devices = int(total[1]) if total else 1

  def walk(self) -> Iterator[At]:
    """Every instruction that runs, in the order of the text."""
    nothing = Instruction('', '', '', '', False)
    yield from self._within(At(nothing, ENTRY), ())

  def shape(self, inside: str, name: str) -> tuple[str, tuple[int, ...]]:
    """Type and sizes of one array: ('bf16', (8, 128))."""
    return shapes(self._by_name(inside)[name].type)[0]

  def type_of(self, inside: str, name: str) -> str:
    """The type of an operand, as text."""
    return self._by_name(inside)[name].type

  def _by_name(self, inside: str) -> dict[str, Instruction]:
    if inside not in self._names:
      here = self.computations.get(inside, ())
      self._names[inside] = {one.name: one for one in here}
    return self._names[inside]

  def _within(self, now: At, loops: tuple) -> Iterator[At]:
    for one in self.computations.get(now.inside, ()):
      at = dataclasses.replace(now, one=one)
      yield at
      called = _CALLED.findall(one.rest)
      if not called:
        continue
      trips = self.trips(at, loops) if one.opcode == 'while' else 1
      for role, names in called:
        if role == 'to_apply' and one.opcode not in _RUNS_IT:
          continue
        for callee in re.findall(r'[\w.-]+', names):
          inner = dataclasses.replace(
            at,
            inside=callee,
            times=at.times * (trips or 1),
            optional=at.optional or one.opcode == 'conditional',
            fused=at.fused or one.opcode == 'fusion',
            known=at.known and trips is not None,
          )
          more = (*loops, at) if one.opcode == 'while' else loops
          yield from self._within(inner, more)

  def trips(self, at: At, loops: tuple = ()) -> int | None:
    """How often the body of a `while` runs, if the text tells."""
    written = _TRIPS.search(at.one.rest)
    if written:
      return int(written[1])
    condition = at.one.attribute('condition').lstrip('%')
    root = next(
      (one for one in self.computations.get(condition, ()) if one.root), None
    )
    if root is None or root.opcode != 'compare':
      return None
    if root.attribute('direction') != 'LT':
      return None
    return self._constant(condition, root.operands[1], (*loops, at))

  def _constant(self, inside: str, name: str, loops: tuple) -> int | None:
    """The integer that a name stands for, if it is one.

    What a loop is given from outside is looked up there: `loops` are the
    `while`s around, innermost last.
    """
    one = self._by_name(inside).get(name)
    if one is None:
      return None
    if one.opcode == 'constant':
      found = re.match(r'(-?\d+)\)', one.rest)
      return int(found[1]) if found else None
    if one.opcode in _PASSED_ON:
      return self._constant(inside, one.operands[0], loops)
    if one.opcode != 'get-tuple-element' or not loops:
      return None
    if self._by_name(inside)[one.operands[0]].opcode != 'parameter':
      return None
    outer, index = loops[-1], int(one.attribute('index'))
    init = self._by_name(outer.inside)[outer.one.operands[0]]
    if init.opcode != 'tuple':
      return None
    return self._constant(outer.inside, init.operands[index], loops[:-1])


def shapes(type_text: str) -> list[tuple[str, tuple[int, ...]]]:
  """All arrays of a type: 'f32[2,3]{1,0}' -> [('f32', (2, 3))]."""
  return [
    (dtype, tuple(int(n) for n in dims.split(',') if n))
    for dtype, dims in _SHAPE.findall(type_text)
  ]


def num_bytes(dtype: str, dims: tuple[int, ...]) -> float:
  """Bytes of an array."""
  found = re.search(r'\d+', dtype)
  bits = 8 if dtype == 'pred' or not found else int(found[0])
  return math.prod(dims) * bits / 8


def _computations(text: str) -> dict[str, list[Instruction]]:
  lines: dict[str, list[Instruction]] = {}
  inside: list[Instruction] = []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      inside = lines[ENTRY if header['entry'] else header['name']] = []
      continue
    found = _INSTRUCTION.match(line)
    if found:
      inside.append(
        Instruction(
          found['name'],
          found['opcode'],
          found['type'],
          line[found.end() :],
          bool(found['root']),
        )
      )
  return lines
