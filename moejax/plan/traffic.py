"""Bytes that an instruction of a compiled program moves to and from HBM.

Operands are read and results are written. Fewer bytes move where only a part of
an array is touched:

  dynamic-slice, slice, gather   twice the result: read, and written
  dynamic-update-slice           twice the update; the array stays in its place
  scatter                        three times the updates: they are read, and
                                 their places are read and written
  fusion                         each operand as far as the fusion reads it, and
                                 its result, or the update of it in place

Example, a loop over 9 layers that keeps [9, 65536, 1706] for the backward pass:
each trip writes [1, 65536, 1706] into it, not all of it.

Memory space 0 is HBM; arrays in others, `S(1)` in their layout, do not count.
"""

import math
import re
from collections.abc import Iterable

from moejax.parallel import collective_bytes, program_text
from moejax.parallel.program_text import Instruction, Occurrence, Program

# Instructions that do not read or write memory themselves. The work of an
# asynchronous instruction is in a computation of its own, and counts there.
_FREE = frozenset([
  'after-all',
  'async-start',
  'async-update',
  'bitcast',
  'call',
  'conditional',
  'constant',
  'copy-done',
  'copy-start',
  'get-tuple-element',
  'iota',
  'parameter',
  'partition-id',
  'tuple',
  'while',
])
# Those that wait for others, or start what a computation of their own does:
# `call-start`, `custom-call-update` ...
_ASYNCHRONOUS = re.compile(r'-done$|call-(start|update)$')
_SLICES = ('dynamic-slice', 'slice', 'gather')
_UPDATE, _SCATTER = 'dynamic-update-slice', 'scatter'
_FUSIONS = ('fusion', 'fusion-start')
# Scalars are left out.
_ARRAY = re.compile(r'\b[a-z]+\d*\w*\[[\d,]+\](?:\{[^}]*\})?')


def of(program: Program, at: Occurrence) -> float:
  """Bytes of one run of an instruction that is not part of a fusion.

  Args:
    program: the program.
    at: the instruction.
  """
  one = at.instruction
  if one.opcode in _FREE or _ASYNCHRONOUS.search(one.opcode):
    return 0.0
  operands = [program.type_of(at.computation, name) for name in one.operands]
  if one.opcode in _FUSIONS:
    return _fusion(program, one, operands)
  if one.opcode in _SLICES:
    return 2 * _bytes(one.type)
  if one.opcode == _UPDATE:
    return 2 * _bytes(operands[1])
  if one.opcode == _SCATTER:
    return 3 * _bytes(operands[-1])
  if one.opcode.removesuffix('-start') in collective_bytes.KINDS:
    return sum(map(_bytes, operands)) + collective_bytes.result_bytes(one)
  return sum(map(_bytes, [one.type, *operands]))


def _fusion(program: Program, one: Instruction, operands: list[str]) -> float:
  """Bytes of a fusion, whose computation says what it touches."""
  inside = _Inside(program, one.attribute('calls').lstrip('%'))
  read = sum(
    min(_bytes(type_text), inside.read(number))
    for number, type_text in enumerate(operands)
  )
  return read + inside.written(one)


class _Inside:
  """The computation of a fusion."""

  def __init__(self, program: Program, name: str):
    found = program.computations.get(name, ())
    self._by_name = {one.name: one for one in found}
    self._users: dict[str, list[tuple[Instruction, int]]] = {}
    for one in found:
      for place, operand in enumerate(one.operands):
        self._users.setdefault(operand, []).append((one, place))
    self._parameters = {
      int(one.rest.partition(')')[0]): one.name
      for one in found
      if one.opcode == 'parameter'
    }
    self._root = next((one for one in found if one.root), None)

  def read(self, number: int) -> float:
    """The most bytes that are read of a parameter; infinite for all of it."""
    name = self._parameters.get(number)
    return math.inf if name is None else self._touched(name)

  def _touched(self, name: str) -> float:
    total = 0.0
    for user, place in self._users.get(name, ()):
      if user.opcode == 'bitcast':
        total += self._touched(user.name)
      elif place == 0 and user.opcode in _SLICES:
        total += _bytes(user.type)
      elif place == 0 and user.opcode == _SCATTER:
        total += self._size(user.operands[-1])
      elif place or user.opcode != _UPDATE:
        return math.inf
    return total

  def written(self, fusion: Instruction) -> float:
    """Bytes that a fusion writes."""
    root = self._root
    if root is None:
      return _bytes(fusion.type)
    if root.opcode == 'tuple':
      arrays = _ARRAY.findall(fusion.type)
      roots = [self._behind(name) for name in root.operands]
      if len(arrays) == len(roots):
        return sum(map(self._write, roots, arrays))
    if fusion.opcode == 'fusion-start':
      return self._write(root, root.type)  # its own type lists operands too
    return self._write(root, fusion.type)

  def _write(self, root: Instruction, type_text: str) -> float:
    root = self._behind(root.name)
    if root.opcode == _UPDATE:
      return self._size(root.operands[1])
    if root.opcode == _SCATTER:
      return self._size(root.operands[-1])
    return _bytes(type_text)

  def _behind(self, name: str) -> Instruction:
    """The instruction whose value a chain of bitcasts has."""
    one = self._by_name[name]
    while one.opcode == 'bitcast':
      one = self._by_name[one.operands[0]]
    return one

  def _size(self, name: str) -> float:
    return _sum(_ARRAY.findall(self._by_name[name].type))


def _bytes(type_text: str) -> float:
  """Bytes of the arrays of a type that lie in HBM."""
  return _sum(array for array in _ARRAY.findall(type_text) if 'S(' not in array)


def _sum(arrays: Iterable[str]) -> float:
  return sum(
    program_text.num_bytes(*program_text.shapes(array)[0]) for array in arrays
  )
