"""The text of a compiled program (HLO), instruction by instruction as it runs.

  for at in Program(jax.jit(f).lower(x).compile().as_text()).walk():
    at.instruction.opcode, at.times, at.optional, at.fused

An instruction in a loop runs once for each trip of the loops around it. An
instruction in a branch may not run at all. An instruction in a fusion is part
of another instruction. Example:

  %body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
    ...
    %y = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, ...
  }
  ENTRY %main (x: f32[8,8]) -> f32[8,8] {
    %w = (s32[], f32[8,8]) while(%t), condition=%cond, body=%body

gives the `dot` with times=5, if `%cond` compares a counter with 5. XLA for CPU
writes the trip count beside the loop. XLA for TPU does not; there the trip
count is read from the loop's condition, because the counters of JAX's loops go
from 0 in steps of 1.
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
# The attributes in which an instruction names the computations that it runs.
_CALLED = re.compile(
  r'(body|condition|calls|to_apply|true_computation|false_computation|'
  r'branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)'
)
# Opcodes whose `to_apply` is a computation worth a walk. That of all others is
# the sum inside a reduction, which is left out.
_CALLS = ('call', 'call-start', 'async-start', 'custom-call')
# Opcodes whose result has the value of their operand.
_PASSED_ON = ('copy', 'bitcast', 'copy-start', 'copy-done', 'convert')
ENTRY = 'ENTRY'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of the text.

  Attributes:
    name: name of the result, without the percent sign.
    opcode: 'all-gather', 'fusion' ...
    type: type of the result as text, 'bf16[8,128]{1,0}' or a tuple of such.
    rest: the text after the opcode's opening parenthesis: operands, attributes.
    root: whether its computation returns its result.
  """

  name: str
  opcode: str
  type: str
  rest: str
  root: bool

  @property
  def operands(self) -> list[str]:
    """The names of the operands, without the percent sign."""
    depth = 1
    for end, letter in enumerate(self.rest):
      depth += (letter == '(') - (letter == ')')
      if not depth:
        return re.findall(r'%([\w.-]+)', self.rest[:end])
    return []

  def attribute(self, name: str) -> str:
    """The text behind `name=`, up to the next space; '' without `name=`."""
    match = re.search(rf'\b{name}=(\S*)', self.rest)
    return match[1].rstrip(',') if match else ''


@dataclasses.dataclass(frozen=True)
class Occurrence:
  """An instruction, and how often it runs when reached by one chain of calls.

  Attributes:
    instruction: the instruction.
    computation: name of the computation that contains it.
    times: number of its runs in one run of the program: the product of the trip
      counts of the loops around it.
    optional: whether it is in a branch that may not be taken.
    fused: whether it is part of a fusion, which does not write its result to
      memory.
    known: whether the trip counts of all loops around it are known. A loop
      whose trip count is not known counts as one trip.
  """

  instruction: Instruction
  computation: str
  times: int = 1
  optional: bool = False
  fused: bool = False
  known: bool = True


class Program:
  """A compiled program, parsed.

  Attributes:
    computations: instructions of each computation by its name; the program
      starts with the one called ENTRY.
    num_devices: number of devices that run the program together.
  """

  def __init__(self, text: str):
    self.computations = _computations(text)
    self._names: dict[str, dict[str, Instruction]] = {}
    total = re.search(r'num_partitions=(\d+)', text)
    self.num_devices = int(total[1]) if total else 1

  def walk(self) -> Iterator[Occurrence]:
    """Every instruction that runs; callees follow the instruction that calls.

    A computation that is called in several places is walked once for each.
    """
    nothing = Instruction('', '', '', '', False)
    yield from self._within(Occurrence(nothing, ENTRY), ())

  def shape(self, computation: str, name: str) -> tuple[str, tuple[int, ...]]:
    """Dtype and sizes of an operand that is an array: ('bf16', (8, 128))."""
    return shapes(self._by_name(computation)[name].type)[0]

  def type_of(self, computation: str, name: str) -> str:
    """The type of an operand, as text."""
    return self._by_name(computation)[name].type

  def _by_name(self, computation: str) -> dict[str, Instruction]:
    """Instructions of a computation by the names of their results."""
    if computation not in self._names:
      instructions = self.computations.get(computation, ())
      self._names[computation] = {i.name: i for i in instructions}
    return self._names[computation]

  def _within(self, now: Occurrence, loops: tuple) -> Iterator[Occurrence]:
    for instruction in self.computations.get(now.computation, ()):
      at = dataclasses.replace(now, instruction=instruction)
      yield at
      called = _CALLED.findall(instruction.rest)
      if not called:
        continue
      trips = self.trips(at, loops) if instruction.opcode == 'while' else 1
      for role, names in called:
        if role == 'to_apply' and instruction.opcode not in _CALLS:
          continue
        for callee in re.findall(r'[\w.-]+', names):
          inner = dataclasses.replace(
            at,
            computation=callee,
            times=at.times * (trips or 1),
            optional=at.optional or instruction.opcode == 'conditional',
            fused=at.fused or instruction.opcode == 'fusion',
            known=at.known and trips is not None,
          )
          more = (*loops, at) if instruction.opcode == 'while' else loops
          yield from self._within(inner, more)

  def trips(self, at: Occurrence, loops: tuple = ()) -> int | None:
    """The trip count of a `while`; None if the text does not say.

    Args:
      at: the `while`.
      loops: the `while`s around it, innermost last.
    """
    match = _TRIPS.search(at.instruction.rest)
    if match:
      return int(match[1])
    condition = at.instruction.attribute('condition').lstrip('%')
    root = next(
      (i for i in self.computations.get(condition, ()) if i.root),
      None,
    )
    if root is None or root.opcode != 'compare':
      return None
    if root.attribute('direction') != 'LT':
      return None
    return self._constant(condition, root.operands[1], (*loops, at))

  def _constant(self, computation: str, name: str, loops: tuple) -> int | None:
    """The value of an instruction that is a constant integer, else None.

    An element of a loop's carry is followed to the tuple with which the loop
    starts. `loops` are the `while`s around the computation, innermost last.
    """
    instruction = self._by_name(computation).get(name)
    if instruction is None:
      return None
    if instruction.opcode == 'constant':
      match = re.match(r'(-?\d+)\)', instruction.rest)
      return int(match[1]) if match else None
    if instruction.opcode in _PASSED_ON:
      return self._constant(computation, instruction.operands[0], loops)
    if instruction.opcode != 'get-tuple-element' or not loops:
      return None
    if (
      self._by_name(computation)[instruction.operands[0]].opcode != 'parameter'
    ):
      return None
    outer, index = loops[-1], int(instruction.attribute('index'))
    init = self._by_name(outer.computation)[outer.instruction.operands[0]]
    if init.opcode != 'tuple':
      return None
    return self._constant(outer.computation, init.operands[index], loops[:-1])


def called(instruction: Instruction) -> list[str]:
  """The names of the computations that an instruction runs."""
  texts = (names for _, names in _CALLED.findall(instruction.rest))
  return [name for text in texts for name in re.findall(r'[\w.-]+', text)]


def shapes(type_text: str) -> list[tuple[str, tuple[int, ...]]]:
  """All arrays of a type: 'f32[2,3]{1,0}' -> [('f32', (2, 3))]."""
  return [
    (dtype, tuple(int(n) for n in dims.split(',') if n))
    for dtype, dims in _SHAPE.findall(type_text)
  ]


def num_bytes(dtype: str, dims: tuple[int, ...]) -> float:
  """Bytes of an array; its dtype is named as in HLO: 'bf16', 's32', 'pred'."""
  match = re.search(r'\d+', dtype)
  bits = 8 if dtype == 'pred' or not match else int(match[0])
  return math.prod(dims) * bits / 8


def _computations(text: str) -> dict[str, list[Instruction]]:
  lines: dict[str, list[Instruction]] = {}
  computation: list[Instruction] = []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      computation = lines[ENTRY if header['entry'] else header['name']] = []
      continue
    match = _INSTRUCTION.match(line)
    if match:
      computation.append(
        Instruction(
          match['name'],
          match['opcode'],
          match['type'],
          line[match.end() :],
          bool(match['root']),
        )
      )
  return lines
