"""The work of a compiled program in one run, read from its HLO text.

JAX's `cost_analysis()` counts the body of a loop once, and knows no time for
Pallas kernels. Here every instruction of the text counts as often as the loops
around it run:

  matmul FLOPs   arithmetic on the shapes of every `dot` and `convolution`
  kernels        FLOPs and bytes that each Pallas kernel states, or those of the
                 table ATTENTION, or on GPUs by the shapes of the arrays; the
                 compiler does not look into kernels
  bytes          of every instruction that is not part of a fusion (`traffic`)
  cycles         the TPU compiler's estimate of every fusion, which is in the
                 text ("estimated_cycles"); none on other platforms

Instructions in branches that may not be taken do not count. Counting the
dearest branch would be too much, counting the cheapest too little; so
`Cost.optional_flops` says how much was left out.
"""

import dataclasses
import math
import re

from moejax.model.attention import splash, triton_kernels
from moejax.moe.compute import pallas_epilogue
from moejax.moe.compute import triton_grouped_matmul as triton
from moejax.parallel import collective_bytes, program_text
from moejax.plan import traffic

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# jaxlib and the TPU compiler write the two keys in different orders, so both
# are found by looking ahead.
_KERNEL = re.compile(
  r'"cost_estimate":\{(?=[^}]*"flops":"(\d+)")'
  r'(?=[^}]*"bytes_accessed":"(\d+)")'
)
_UNKNOWN_CYCLES = 2**62  # at least this: the compiler has no estimate

# Numbers of products of L x L x width for each head in an attention kernel, by
# the beginning of its name: those of the width of keys, and those of the width
# of values. These kernels state no cost.
ATTENTION = {
  'splash_mha_fwd': (1, 1),  # scores; output
  'splash_mha_dkv': (2, 2),  # scores, dk; the scores' gradient, dv
  'splash_mha_dq': (2, 1),  # scores, dq; the scores' gradient
}
# Kernels that skip rows which belong to no expert of the device.
EXPERTS = ('gmm', 'tgmm', pallas_epilogue.NAME)
# Of Pallas kernels that Triton compiles, which state no cost.
TRITON = '__gpu$xla.gpu.triton'
_TRITON_NAME = re.compile(r'(\w+)\)*/pallas_call"')


@dataclasses.dataclass(frozen=True)
class PallasCall:
  """A Pallas kernel in a program.

  Attributes:
    name: name of the kernel.
    flops: FLOPs of one run; 0 if unknown.
    num_bytes: bytes to and from HBM of one run; 0 if unknown.
    times: number of runs.
    place: where in the program's walk it is.
  """

  name: str
  flops: float
  num_bytes: float
  times: int
  place: int = 0


@dataclasses.dataclass(frozen=True)
class Work:
  """The work of one instruction outside of kernels and collectives.

  Attributes:
    flops: FLOPs of its matrix products, in one run.
    num_bytes: bytes to and from HBM, in one run.
    times: number of runs.
    cycles: the compiler's estimate of one run; 0 without one.
    place: where in the program's walk it is.
  """

  flops: float
  num_bytes: float
  times: int
  cycles: float = 0.0
  place: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
  """Work of one run of a program on one device.

  Attributes:
    flops: FLOPs of matrix products outside of kernels.
    num_bytes: bytes to and from HBM, outside of kernels.
    cycles: the compiler's estimate, without kernels and collectives; 0 on
      platforms without one.
    rest_bytes: bytes to and from HBM of instructions for which the compiler has
      no estimate: row gathers, some copies. They are part of `num_bytes`.
    kernels: all Pallas kernels.
    optional_flops: FLOPs in branches that may not be taken; not in `flops`.
    unknown_loops: loops whose number of trips the text does not tell; each
      counts as one trip.
    works: every instruction outside of kernels and collectives that moves or
      multiplies anything.
  """

  flops: float
  num_bytes: float
  cycles: float
  rest_bytes: float
  kernels: tuple[PallasCall, ...]
  optional_flops: float
  unknown_loops: int
  works: tuple[Work, ...] = ()

  @property
  def kernel_flops(self) -> float:
    """FLOPs of all runs of all kernels."""
    return sum(k.flops * k.times for k in self.kernels)

  @property
  def kernel_bytes(self) -> float:
    """Bytes of all runs of all kernels."""
    return sum(k.num_bytes * k.times for k in self.kernels)


def of_program(
  program: program_text.Program, row_overhead: float = 1.0
) -> Cost:
  """The cost of a compiled program on one of its devices.

  Args:
    program: its text, parsed.
    row_overhead: rows given to kernels of EXPERTS over rows that they compute;
      see `ExpertParallel.row_overhead`. The cost that such a kernel states is
      that of all rows, so it is divided by `row_overhead`.
  """
  flops = num_bytes = cycles = rest = optional = 0.0
  kernels, works, unknown = [], list[Work](), 0
  for place, at in enumerate(program.walk()):
    kernel = _kernel(program, at, row_overhead)
    own = matmul_flops(program, at)
    if at.optional:
      optional += at.times * (own + (kernel.flops if kernel else 0))
      continue
    flops += own * at.times
    if kernel:
      kernels.append(dataclasses.replace(kernel, place=place))
    elif at.fused:
      # It follows the fusion that it is part of.
      if own:
        fusion = works.pop()
        works.append(dataclasses.replace(fusion, flops=fusion.flops + own))
    else:
      moved = traffic.of(program, at)
      num_bytes += at.times * moved
      cycles += at.times * _cycles(at)
      if not _is_collective(at):
        works.append(Work(own, moved, at.times, _cycles(at), place))
        if not _cycles(at):
          rest += at.times * moved
    if at.instruction.opcode == 'while':
      unknown += program.trips(at) is None
  return Cost(
    flops,
    num_bytes,
    cycles,
    rest,
    tuple(kernels),
    optional,
    unknown,
    tuple(
      work for work in works if work.flops or work.num_bytes or work.cycles
    ),
  )


def matmul_flops(
  program: program_text.Program, at: program_text.Occurrence
) -> float:
  """FLOPs of one run of a `dot` or `convolution`; 0 for all else."""
  if at.instruction.opcode == 'dot':
    return _dot(program, at)
  if at.instruction.opcode == 'convolution':
    return _convolution(program, at)
  return 0.0


def _dot(program: program_text.Program, at: program_text.Occurrence) -> float:
  _, out = program_text.shapes(at.instruction.type)[0]
  _, left = program.shape(at.computation, at.instruction.operands[0])
  match = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', at.instruction.rest)
  contracted = [int(n) for n in match[1].split(',') if n] if match else []
  return 2.0 * math.prod(out) * math.prod(left[n] for n in contracted)


def _convolution(
  program: program_text.Program, at: program_text.Occurrence
) -> float:
  """FLOPs of a convolution, as which XLA for TPU writes matrix products.

  Batch dimensions become dimensions of the window. Each place of the window
  counts as often as it falls on an input, and not where it falls on padding or
  into the gaps of a dilation.
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
    along = {key: values[n] for key, values in window.items()}
    products *= _hits(sizes, along)
  groups = re.search(r'batch_group_count=(\d+)', at.instruction.rest)
  return 2.0 * products / (int(groups[1]) if groups else 1)


def _window(text: str) -> dict[str, list]:
  """The attributes of a convolution's window, by spatial dimension.

  Example:
    'window={size=3x1 pad=1_1x0_0 stride=2x1}'
    {'pad': [(1, 1), (0, 0)], 'stride': [2, 1]}
  """
  match = re.search(r'window=\{([^}]*)\}', text)
  window: dict[str, list] = {}
  for key, value in re.findall(r'(\w+)=(\S+)', match[1] if match else ''):
    values = value.split('x')
    if key == 'pad':
      window[key] = [tuple(int(n) for n in pad.split('_')) for pad in values]
    elif key != 'size':
      window[key] = [int(n) for n in values]
  return window


def _hits(sizes: tuple[int, int, int], window: dict) -> int:
  """Pairs of an output and a place of the window that meet an input.

  Args:
    sizes: sizes of input, window and output along one spatial dimension.
    window: the window's attributes along that dimension.
  """
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


def _kernel(
  program: program_text.Program,
  at: program_text.Occurrence,
  row_overhead: float,
) -> PallasCall | None:
  """The Pallas kernel that an instruction calls; None if it calls none."""
  if f'custom_call_target="{TRITON}"' in at.instruction.rest:
    return _triton(program, at, row_overhead)
  if 'custom_call_target="tpu_custom_call"' not in at.instruction.rest:
    return None
  name = at.instruction.name.split('.')[0]
  match = _KERNEL.search(at.instruction.rest)
  if match:
    share = row_overhead if name in EXPERTS else 1.0
    flops, num_bytes = (float(n) / share for n in match.groups())
    return PallasCall(name, flops, num_bytes, at.times)
  products = next(
    (n for start, n in ATTENTION.items() if name.startswith(start)), None
  )
  layout = at.instruction.rest.partition('operand_layout_constraints=')[2]
  operands = program_text.shapes(layout.partition('}, frontend')[0])
  heads = [dims for _, dims in operands if len(dims) >= 3 and dims[-1] > 1]
  if not products or not heads:
    return PallasCall(name, 0.0, 0.0, at.times)
  # Queries [rows, heads, tokens, width], then keys and values.
  first = next(n for n, d in enumerate(heads) if d[-2] % splash.LANES == 0)
  queries, keys, values = heads[first : first + 3]
  # The matrix units take a width in steps of 128.
  wide, narrow = splash.padded(queries[-1]), splash.padded(values[-1])
  # Where `context` splits rows, a device has the keys of whole rows, and its
  # queries see as large a share of them as those of the other devices.
  share = splash.visited(keys[-2], wide)
  per_score = 2.0 * (products[0] * wide + products[1] * narrow)
  flops = per_score * math.prod(queries[:-1]) * keys[-2] * share
  num_bytes = sum(program_text.num_bytes(*shape) for shape in operands)
  return PallasCall(name, flops, num_bytes, at.times)


def _triton(
  program: program_text.Program,
  at: program_text.Occurrence,
  row_overhead: float,
) -> PallasCall:
  """A Pallas kernel for GPUs; those of moejax have a cost by their shapes.

  Of experts, rows [R, D] times weights [E, D, F], or the weights' gradient
  [E, D, F] of rows [R, D] and [R, F]: 2 R D F FLOPs either way. Of attention,
  queries [B, L, H, K], keys [B, L, G, K] and values [B, L, G, V]: 2 FLOPs for
  each pair of a query and a key that is visited, and each feature.
  """
  match = _TRITON_NAME.search(at.instruction.rest)
  name = match[1] if match else at.instruction.name.split('.')[0]
  num_bytes = traffic.of(program, at)
  arrays = [
    program.shape(at.computation, operand)
    for operand in at.instruction.operands
  ]
  if name in triton_kernels.PRODUCTS:
    products = _triton_attention(name, arrays)
    return PallasCall(name, 2.0 * products, num_bytes, at.times)
  if name not in (triton.ROWS, triton.WEIGHTS):
    return PallasCall(name, 0.0, num_bytes, at.times)
  _, out = program_text.shapes(at.instruction.type)[0]
  rows = [sizes for _, sizes in arrays if len(sizes) == 2][0]
  products = (
    math.prod(rows) * out[1]
    if name == triton.ROWS
    else rows[0] * math.prod(out[1:])
  )
  return PallasCall(
    name, 2.0 * products / row_overhead, num_bytes / row_overhead, at.times
  )


def _triton_attention(
  name: str, arrays: list[tuple[str, tuple[int, ...]]]
) -> int:
  """Multiplications of a kernel of attention for GPUs.

  Args:
    name: of the kernel.
    arrays: its operands, the first three of which are queries, keys, values.
  """
  (_, (rows, length, heads, _)), *features = arrays[:3]
  widths = [dims[-1] for _, dims in features]
  wide = sum(
    int(program_text.num_bytes(dtype, (dims[-1],))) for dtype, dims in features
  )
  pairs = rows * heads * triton_kernels.sizes(length, wide).pairs(length)
  products = triton_kernels.PRODUCTS[name]
  return pairs * sum(n * w for n, w in zip(products, widths, strict=True))


def _is_collective(at: program_text.Occurrence) -> bool:
  return at.instruction.opcode.removesuffix('-start') in collective_bytes.KINDS


def _cycles(at: program_text.Occurrence) -> float:
  match = _CYCLES.search(at.instruction.rest)
  cycles = int(match[1]) if match else 0
  return cycles if cycles < _UNKNOWN_CYCLES else 0
