"""Reads a profile: which operation of which program ran when, on each device.

JAX writes a profile as planes of lines of events. What is read of them:

  CPU   /host:CPU, all lines       events with `hlo_op` and `hlo_module`
  GPU   /device:GPU:0, all lines   the same
  TPU   /device:TPU:0, 'XLA Ops'   the name of an event is that of the operation
                       'XLA Modules'   the program that runs meanwhile

Operations of other lines of a TPU run beside these, on units that move data.
"""

import bisect
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax

_NAME = re.compile(r'%?([\w.-]+)')
_DEVICE = re.compile(r'/device:(?:TPU|GPU):(\d+)$')
OPS, MODULES = 'XLA Ops', 'XLA Modules'


@dataclasses.dataclass(frozen=True)
class Op:
  """One run of one operation.

  Attributes:
    device: number of the device.
    program: name of the program, such as 'jit_step'.
    name: name of the instruction in the program, such as 'fusion.12'.
    start: begin in nanoseconds.
    end: end in nanoseconds.
    own: nanoseconds without those of operations inside, such as a loop has.
  """

  device: int
  program: str
  name: str
  start: float
  end: float
  own: float


def read(path: pathlib.Path) -> list[Op]:
  """All operations of a file of a profile (`*.xplane.pb`)."""
  return of(jax.profiler.ProfileData.from_file(str(path)))


def of(data: Any) -> list[Op]:
  """All operations of a `jax.profiler.ProfileData`."""
  return [op for plane in data.planes for op in _of_plane(plane)]


def busy(ops: Iterable[Op]) -> float:
  """Nanoseconds in which at least one of the operations ran."""
  total, until = 0.0, float('-inf')
  for op in sorted(ops, key=lambda op: op.start):
    total += max(0.0, op.end - max(op.start, until))
    until = max(until, op.end)
  return total


def _of_plane(plane: Any) -> Iterator[Op]:
  match = _DEVICE.search(plane.name)
  if match is None and plane.name != '/host:CPU':
    return
  device = int(match[1]) if match else 0
  lines = {line.name: line for line in plane.lines}
  if OPS in lines:
    yield from _nested(_on_tpu(lines, device))
    return
  for line in plane.lines:
    yield from _nested(_with_stats(line, device))


def _with_stats(line: Any, device: int) -> Iterator[Op]:
  for event in line.events:
    stats = dict(event.stats)
    if 'hlo_op' in stats:
      yield _op(
        int(stats.get('device_ordinal', device)),
        str(stats.get('hlo_module', '')),
        str(stats['hlo_op']),
        event,
      )


def _on_tpu(lines: dict[str, Any], device: int) -> Iterator[Op]:
  programs = sorted(
    (event.start_ns, event.end_ns, event.name)
    for event in getattr(lines.get(MODULES), 'events', ())
  )
  starts = [start for start, *_ in programs]
  for event in lines[OPS].events:
    at = bisect.bisect_right(starts, event.start_ns) - 1
    inside = at >= 0 and event.start_ns < programs[at][1]
    # The name is that of the module with a fingerprint: 'jit_step(123)'.
    program = programs[at][2].partition('(')[0] if inside else ''
    name = _NAME.match(event.name)
    yield _op(device, program, name[1] if name else event.name, event)


def _op(device: int, program: str, name: str, event: Any) -> Op:
  start, end = event.start_ns, event.end_ns
  return Op(device, program, name, start, end, end - start)


def _nested(ops: Iterable[Op]) -> Iterator[Op]:
  """The operations of a line, whose `own` leaves out those inside."""
  stack: list[tuple[Op, list[float]]] = []

  def close(until: float) -> Iterator[Op]:
    while stack and stack[-1][0].end <= until:
      op, inner = stack.pop()
      yield dataclasses.replace(op, own=max(0.0, op.own - sum(inner)))

  for op in sorted(ops, key=lambda op: (op.start, -op.end)):
    yield from close(op.start)
    if stack:
      stack[-1][1].append(op.own)
    stack.append((op, []))
  yield from close(float('inf'))
