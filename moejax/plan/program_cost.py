"""Work of a compiled program in one run, loops counted as often as they run.

`cost_analysis()` counts the body of a loop once, and knows no time for Pallas
kernels. Here every instruction of the program's text counts as often as the
loops around it say:

  matmul FLOPs   arithmetic on the shapes of every `dot` and `convolution`
  kernels        FLOPs and bytes as each Pallas kernel says of itself, or by
                 ATTENTION: the compiler knows nothing of what is inside
  bytes          of what goes into and comes out of every instruction that is
                 not part of a fusion, where that lies in HBM
  cycles         the TPU compiler's own estimate of every fusion, as it writes
                 it into the text ("estimated_cycles"); none on other platforms

A branch that may not be taken counts only where the other branch is empty of
such work: of a conditional the dearest branch would be too much, and the
cheapest too little, so `optional` says what was left out.
"""

import dataclasses
import math
import re

from moejax.model.attention import splash
from moejax.moe.compute import pallas_epilogue
from moejax.parallel import collective_bytes, program_text

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# The order of what it says depends on who writes the text.
_KERNEL = re.compile(
  r'"cost_estimate":\{(?=[^}]*"flops":"(\d+)")'
  r'(?=[^}]*"bytes_accessed":"(\d+)")'
)
_UNKNOWN_CYCLES = 2**62
# What neither reads nor writes memory by itself. What runs asynchronously is in
# a computation of its own, and counts there.
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


# Products of the L queries of a head with its L keys in a kernel of which the
# text says nothing, by how its name starts: scores and output; scores, their
# gradient, dv and dk; scores, their gradient and dq.
ATTENTION = {
  'splash_mha_fwd': 2,
  'splash_mha_dkv': 4,
  'splash_mha_dq': 3,
}
# Kernels that skip rows of no expert.
EXPERTS = ('gmm', 'tgmm', pallas_epilogue.NAME)


@dataclasses.dataclass(frozen=True)
class PallasCall:
  """A Pallas kernel: its stated cost of one run, and its number of runs."""

  name: str
  flops: float
  num_bytes: float
  times: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """One run of the program on one device.

  Attributes:
    flops: FLOPs of matrix products outside of kernels.
    num_bytes: bytes to and from HBM, outside of kernels.
    cycles: the compiler's estimate, without kernels and collectives; 0 where
      the platform has none.
    rest_bytes: to and from HBM, of what the compiler has no estimate of: row
      gathers, some copies.
    kernels: all Pallas kernels.
    optional_flops: FLOPs in branches that may not be taken; not in `flops`.
    unknown_loops: loops whose number of trips the text does not tell; each
      counts as one trip.
  """

  flops: float
  num_bytes: float
  cycles: float
  rest_bytes: float
  kernels: tuple[PallasCall, ...]
  optional_flops: float
  unknown_loops: int

  @property
  def kernel_flops(self) -> float:
    """FLOPs of all runs of all kernels."""
    return sum(k.flops * k.times for k in self.kernels)

  @property
  def kernel_bytes(self) -> float:
    """Bytes of all runs of all kernels."""
    return sum(k.num_bytes * k.times for k in self.kernels)


def of_program(program: program_text.Program, room: float = 1.0) -> Cost:
  """The cost of a compiled program on one of its devices.

  Args:
    program: its text, parsed.
    room: rows that kernels of EXPERTS are given over those that they compute;
      see `ExpertParallel.room`. They say what all of them would cost.
  """
  flops = num_bytes = cycles = rest = optional = 0.0
  kernels, unknown = [], 0
  for at in program.walk():
    kernel = _kernel(at, room)
    own = matmul_flops(program, at)
    if at.optional:
      optional += at.times * (own + (kernel.flops if kernel else 0))
      continue
    flops += own * at.times
    if kernel:
      kernels.append(kernel)
    elif not at.fused:
      moved = at.times * _hbm_bytes(program, at)
      num_bytes += moved
      cycles += at.times * _cycles(at)
      if not _cycles(at) and not _is_collective(at):
        rest += moved
    if at.instruction.opcode == 'while':
      unknown += program.trips(at) is None
  return Cost(flops, num_bytes, cycles, rest, tuple(kernels), optional, unknown)


def matmul_flops(
  program: program_text.Program, at: program_text.Occurrence
) -> float:
  """FLOPs of one run of a `dot` or `convolution`; 0 for all else."""
  if at.instruction.opcode == 'dot':
    return _dot(program, at)
  if at.instruction.opcode == 'convolution':
    return _convolution(program, at)
  return 0.0


def _dot(program, at) -> float:
  _, out = program_text.shapes(at.instruction.type)[0]
  _, left = program.shape(at.computation, at.instruction.operands[0])
  match = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', at.instruction.rest)
  over = [int(n) for n in match[1].split(',') if n] if match else []
  return 2.0 * math.prod(out) * math.prod(left[n] for n in over)


def _convolution(program, at) -> float:
  """XLA for TPU writes matrix products so, batch dimensions as windows.

  Each place of the window counts as often as it falls on the input, not on
  padding or on the gaps of a dilation.
  """
  _, out = program_text.shapes(at.instruction.type)[0]
  left, right = (
    program.shape(at.computation, name)[1]
    for name in at.instruction.operands[:2]
  )
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', at.instruction.rest)
  if labels is None:
    raise ValueError(f'a convolution without dim_labels: {at.instruction.rest}')
  of_left, of_right, of_out = labels.groups()
  features = right[of_right.index('i')]
  products = out[of_out.index('b')] * out[of_out.index('f')] * features
  window = _window(at.instruction.rest)
  for n in range(len(of_left) - 2):
    sizes = (
      left[of_left.index(str(n))],
      right[of_right.index(str(n))],
      out[of_out.index(str(n))],
    )
    products *= _hits(sizes, {key: of[n] for key, of in window.items()})
  groups = re.search(r'batch_group_count=(\d+)', at.instruction.rest)
  return 2.0 * products / (int(groups[1]) if groups else 1)


def _window(text: str) -> dict[str, list]:
  match = re.search(r'window=\{([^}]*)\}', text)
  read: dict[str, list] = {}
  for key, value in re.findall(r'(\w+)=(\S+)', match[1] if match else ''):
    parts = value.split('x')
    if key == 'pad':
      read[key] = [tuple(int(n) for n in part.split('_')) for part in parts]
    elif key != 'size':
      read[key] = [int(part) for part in parts]
  return read


def _hits(sizes: tuple[int, int, int], window: dict) -> int:
  """Pairs of an output's place and a window's place that meet an input."""
  size_in, size_window, size_out = sizes
  low = window.get('pad', (0, 0))[0]
  stride, spread = window.get('stride', 1), window.get('lhs_dilate', 1)
  reach = window.get('rhs_dilate', 1)
  if size_window == 1 and not low and spread == 1:
    return size_out
  end = (size_in - 1) * spread + 1
  hits = 0
  for place in range(size_window):
    # An output o sees the input at o * stride + place * reach - low.
    shift = place * reach - low
    first = max(0, -(shift // stride))
    last = min(size_out - 1, (end - 1 - shift) // stride)
    if last < first:
      continue
    if spread == 1:
      hits += last - first + 1
    else:
      hits += sum(
        (o * stride + shift) % spread == 0 for o in range(first, last + 1)
      )
  return hits


def _kernel(at: program_text.Occurrence, room: float) -> PallasCall | None:
  if 'custom_call_target="tpu_custom_call"' not in at.instruction.rest:
    return None
  name = at.instruction.name.split('.')[0]
  match = _KERNEL.search(at.instruction.rest)
  if match:
    share = room if name in EXPERTS else 1.0
    flops, num_bytes = (float(n) / share for n in match.groups())
    return PallasCall(name, flops, num_bytes, at.times)
  products = next(
    (n for start, n in ATTENTION.items() if name.startswith(start)), 0
  )
  layout = at.instruction.rest.partition('operand_layout_constraints=')[2]
  given = program_text.shapes(layout.partition('}, frontend')[0])
  heads = [dims for _, dims in given if len(dims) >= 3 and dims[-1] > 1]
  if not products or not heads:
    return PallasCall(name, 0.0, 0.0, at.times)
  # The queries: [rows, heads, tokens, width], filled up as `splash` does.
  dims = next(dims for dims in heads if dims[-2] % splash.LANES == 0)
  length, width = dims[-2:]
  share = splash.visited(length, width)
  flops = 2.0 * products * math.prod(dims) * length * share
  num_bytes = sum(program_text.num_bytes(*shape) for shape in given)
  return PallasCall(name, flops, num_bytes, at.times)


def _is_collective(at: program_text.Occurrence) -> bool:
  return at.instruction.opcode.removesuffix('-start') in collective_bytes.KINDS


def _cycles(at: program_text.Occurrence) -> float:
  match = _CYCLES.search(at.instruction.rest)
  cycles = int(match[1]) if match else 0
  return cycles if cycles < _UNKNOWN_CYCLES else 0


def _hbm_bytes(
  program: program_text.Program, at: program_text.Occurrence
) -> float:
  """Bytes of operands and results that lie in HBM: memory space 0.

  What reads a part of an operand says it by its name.
  """
  if at.instruction.opcode in _FREE or at.instruction.opcode.endswith('-done'):
    return 0.0
  types = [at.instruction.type]
  if not re.search(
    r'slice|gather|scatter', at.instruction.opcode + at.instruction.name
  ):
    types += [
      program.type_of(at.computation, name) for name in at.instruction.operands
    ]
  return sum(map(_in_hbm, types)) * (2 if len(types) == 1 else 1)


def _in_hbm(type_text: str) -> float:
  return sum(
    program_text.num_bytes(*program_text.shapes(one)[0])
    for one in re.findall(r'\b[a-z]+\d*\w*\[[\d,]+\](?:\{[^}]*\})?', type_text)
    if 'S(' not in one
  )
