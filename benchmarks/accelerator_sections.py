"""The sections of `benchmarks.accelerator`; each records one row at a time."""

import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kernels as kernels_lib
from benchmarks import parts as parts_lib
from benchmarks import peers, timing
from benchmarks import step as step_lib
from benchmarks.standard import STANDARD, Shape
from moejax.model.attention import dot_product
from moejax.model.config import ModelConfig
from moejax.moe.compute import grouped_matmuls, implementations
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.routers import ROUTERS
from moejax.parallel import mesh as meshes
from moejax.plan import count


@dataclasses.dataclass(frozen=True)
class Size:
  """How large the things are that are measured.

  Attributes:
    shape: model and batch of kernels and training step.
    least_rows: the step is tried with half the rows until its memory suffices,
      down to these.
    matmul: rows, depth, width and experts of the grouped matmuls that are
      checked.
    peak: side of the square matmul that says what the machine can reach.
    rounds: of kernels in turn.
    steps: of a training step, each time.
    sides: how often both sides of the peer's section run.
  """

  shape: Shape
  least_rows: int
  matmul: tuple[int, int, int, int]
  peak: int
  rounds: int
  steps: int
  sides: int


def _shape(
  rows: int, length: int, experts: dict[str, Any], **model: Any
) -> Any:
  shape = STANDARD.with_model(
    max_length=length, dtype='bfloat16', scan_unroll=1, **model
  ).with_moe(**experts)
  return dataclasses.replace(shape, rows=rows, length=length)


# DeepSeekMoE 2B (arXiv 2401.06066, section 4.1): experts of 896 in place of
# 853, and 64 of them beside the shared one.
FULL = Size(
  shape=_shape(
    16,
    2048,
    {'num_experts': 64, 'expert_width': 896, 'router': ROUTERS['top_k'](k=7)},
    vocab_size=32768,
    num_layers=9,
    width=1280,
    num_heads=10,
    head_dim=128,
    dense_width=2560,
  ),
  least_rows=2,
  matmul=(4096, 512, 384, 16),
  peak=8192,
  rounds=5,
  steps=10,
  sides=2,
)
TINY = Size(
  shape=_shape(
    8,
    16,
    {'num_experts': 8, 'expert_width': 8, 'router': ROUTERS['top_k'](k=2)},
    vocab_size=64,
    num_layers=2,
    width=16,
    num_heads=2,
    head_dim=8,
    dense_width=32,
  ),
  least_rows=8,
  matmul=(64, 16, 24, 4),
  peak=64,
  rounds=1,
  steps=2,
  sides=1,
)

# bfloat16 FLOP/s of dense products by the kind of device: what utilisation is a
# share of. 790 of an H200's 989 TFLOP/s is what large matmuls are reported to
# reach.
PEAKS = {'H200': 790e12, 'H100': 790e12, 'TPU v5e': 197e12, 'TPU v5p': 459e12}


@dataclasses.dataclass(frozen=True)
class Task:
  """What a section is given.

  Attributes:
    size: of what is measured.
    peer_python: a Python that has the peer.
    record: is called with the fields of each row.
  """

  size: Size
  peer_python: str
  record: Callable[..., None]


def correctness(task: Task) -> None:
  """Grouped matmuls expert by expert, and attention, against float64."""
  num_rows, depth, width, num_experts = task.size.matmul
  shapes = (num_rows, depth), (num_experts, depth, width), (num_rows, width)
  share = np.full(num_experts - 1, 1 / (num_experts - 1))
  uneven = np.random.default_rng(0).multinomial(num_rows, share)
  sizes = np.array([*uneven, 0])  # the last expert has no row
  for name in _usable(task.size.shape.config):
    for dtype in ('bfloat16', 'float32'):
      with recorded(task, name=name, case=f'grouped matmul, {dtype}') as row:
        run = _with_gradients(grouped_matmuls.GROUPED_MATMULS[name]())
        x_RD, w_EDF, dy_RF = _draw(dtype, *shapes)
        size_E = jnp.asarray(sizes, jnp.int32)
        got = jax.device_get(run(x_RD, w_EDF, dy_RF, size_E))
        row |= compared(got, by_expert(x_RD, w_EDF, dy_RF, sizes), dtype)
  config, length = task.size.shape.config, min(task.size.shape.length, 512)
  heads = (2, length, config.num_heads, config.head_dim)
  q, k, v = _draw(config.dtype, heads, heads, heads)
  segment_BL = np.tile(1 + np.arange(length) // (length // 2 + 3), (2, 1))
  want = attention(q, k, v, segment_BL)
  for name, attend in dot_product.ATTENTIONS.items():
    with recorded(task, name=name, case=f'attention, {config.dtype}') as row:
      got = jax.jit(attend)(q, k, v, jnp.asarray(segment_BL, jnp.int32))
      row |= compared([jax.device_get(got)], [want], config.dtype)


def kernels(task: Task) -> None:
  """Every implementation in each table, forward and backward, in turn."""
  shape, config = task.size.shape, task.size.shape.config
  active = config.moe.experts_per_token * config.moe.expert_width
  heads = config.num_heads * config.head_dim
  flops = {
    'attention core': 3 * 4 * shape.tokens * shape.length * heads,
    'routed experts': 6 * shape.tokens * 3 * config.width * active,
    'head and loss': 6 * shape.tokens * config.width * config.vocab_size,
  }
  every = kernels_lib.kernels(config, shape.rows, shape.length)
  for job in flops:
    parts = []
    for kernel in every:
      if kernel.job == job:
        row = {'job': job, 'name': kernel.name}
        try:
          jax.block_until_ready(kernel.run(*kernel.arguments))
        except Exception as e:  # noqa: BLE001 (whatever a compiler raises)
          task.record(**row, failed=' '.join(str(e).split())[:300])
        else:
          parts.append(timing.Part(kernel.name, kernel.run, kernel.arguments))
    for part, best in zip(
      parts, timing.best(parts, task.size.rounds), strict=True
    ):
      rate = flops[job] / best / 1e12
      task.record(job=job, name=part.name, ms=best * 1e3, tflops=rate)


def expert_parallel(task: Task) -> None:
  """A layer with its experts split over all devices, by every kind."""
  number = len(jax.devices())
  if number == 1:
    task.record(note='one device: nothing travels')
    return
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=number))
  for name, make in EXPERT_PARALLEL.items():
    with recorded(task, name=name) as row:
      shape = task.size.shape.with_moe(expert_parallel=make())
      run, arguments = parts_lib.experts(shape, on=mesh)
      part = timing.Part(name, run, arguments)
      row['ms'] = timing.best([part], task.size.rounds)[0] * 1e3


def step(task: Task) -> None:
  """A training step, with as many rows as memory has room for."""
  side = task.size.peak
  matrix = jnp.ones((side, side), jnp.bfloat16)
  part = timing.Part('peak', jax.jit(jnp.matmul), (matrix, matrix))
  reached = 2 * side**3 / timing.best([part], task.size.rounds)[0]
  kind = jax.devices()[0].device_kind
  task.record(note=f'{kind}, JAX {jax.__version__}')
  task.record(
    note=f'bfloat16 matmul of {side} cubed: {reached / 1e12:.4g} TFLOP/s'
  )
  peak = next((rate for name, rate in PEAKS.items() if name in kind), None)
  shape = task.size.shape
  while shape.rows >= task.size.least_rows:
    with recorded(task, name='moejax', rows=shape.rows) as row:
      measured = step_lib.time_step(shape, task.size.steps)
      best = min(measured['seconds'])
      flops = count.flops_per_token(shape.config, shape.length) * shape.tokens
      stats = jax.devices()[0].memory_stats() or {}
      row |= {
        'tokens_per_s': shape.tokens / best,
        'mfu': flops / best / peak if peak else None,
        'of_matmul': flops / best / reached,
        'peak_mb': stats.get('peak_bytes_in_use', 0) / 2**20
        or measured['peak_mb'],
      }
      return
    shape = dataclasses.replace(shape, rows=shape.rows // 2)


def peer(task: Task) -> None:
  """Our step and that of transformers, each in a process of its own, in turn.

  Both train on as many rows as there is memory for on both sides.
  """
  program = peers.PEERS['transformers']
  if task.peer_python == sys.executable and not all(
    map(importlib.util.find_spec, program.needs)
  ):
    task.record(note=f'{" and ".join(program.needs)} are not installed')
    return
  shape = task.size.shape
  while shape.rows >= task.size.least_rows:
    if _both_sides(task, shape):
      return
    shape = dataclasses.replace(shape, rows=shape.rows // 2)


def _both_sides(task: Task, shape: Shape) -> bool:
  """Records all rounds of both sides; whether none of them failed."""
  device = 'cpu' if task.size is TINY else 'cuda'
  other = peers.task(shape, task.size.steps, device)
  lines = {
    'moejax': [sys.executable, '-c', OURS, str(task.size is TINY)]
    + [str(shape.rows)],
    'transformers': [
      task.peer_python,
      '-c',
      peers.PEERS['transformers'].program,
      other,
    ],
  }
  best: dict[str, list[float]] = {name: [] for name in lines}
  for _ in range(task.size.sides):
    for name, line in lines.items():
      with recorded(task, name=name, rows=shape.rows) as row:
        measured = step_lib.side(line)
        seconds = measured['seconds']
        row |= {
          'best': shape.tokens / min(seconds),
          'median': shape.tokens / float(np.median(seconds)),
          'peak_mb': measured['peak_mb'],
          'what': measured.get('what', ''),
        }
        best[name] += seconds
      if 'failed' in row:
        return False
  ratio = min(best['transformers']) / min(best['moejax'])
  task.record(note=f'moejax / transformers: {ratio:.2f} of best')
  return True


# A program for `python -c`: our side of `peer`.
OURS = """
import dataclasses, json, sys
from benchmarks import accelerator_sections as sections, step
size = sections.TINY if sys.argv[1] == 'True' else sections.FULL
shape = dataclasses.replace(size.shape, rows=int(sys.argv[2]))
print(json.dumps(step.time_step(shape, size.steps)))
"""


SECTIONS: dict[str, Callable[[Task], None]] = {
  'correctness': correctness,
  'kernels': kernels,
  'expert_parallel': expert_parallel,
  'step': step,
  'peer': peer,
}


@contextlib.contextmanager
def recorded(task: Task, **row: Any) -> Iterator[dict[str, Any]]:
  """Gives a row to fill, and records it; an error becomes its `failed`."""
  try:
    yield row
  except Exception as e:  # noqa: BLE001 (whatever a compiler or a driver raises)
    row['failed'] = ' '.join(f'{type(e).__name__}: {e}'.split())[:300]
  task.record(**row)


def _usable(config: ModelConfig) -> list[str]:
  """The grouped matmuls for groups of any size that run on this machine."""
  platform = jax.devices()[0].platform
  return [
    name
    for name, make in grouped_matmuls.GROUPED_MATMULS.items()
    if not implementations.IMPLEMENTATIONS[name].refuses(config.moe, platform)
    and make().row_multiple == 1
  ]


def _draw(dtype: str, *shapes: tuple[int, ...]) -> list[jax.Array]:
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def _with_gradients(multiply: Any) -> Any:
  """(x_RD, w_EDF, dy_RF, size_E) -> (y_RF, dx_RD, dw_EDF)."""

  def run(
    x_RD: jax.Array, w_EDF: jax.Array, dy_RF: jax.Array, size_E: jax.Array
  ) -> tuple[jax.Array, ...]:
    y_RF, pull = jax.vjp(lambda x, w: multiply(x, w, size_E), x_RD, w_EDF)
    return y_RF, *pull(dy_RF)

  return jax.jit(run)


def by_expert(
  x_RD: Any, w_EDF: Any, dy_RF: Any, sizes: np.ndarray
) -> tuple[np.ndarray, ...]:
  """(y_RF, dx_RD, dw_EDF) in float64, one expert after the other."""
  x_RD, w_EDF, dy_RF = (np.asarray(z, np.float64) for z in (x_RD, w_EDF, dy_RF))
  y_RF, dx_RD, dw_EDF = (
    np.zeros_like(dy_RF),
    np.zeros_like(x_RD),
    np.zeros_like(w_EDF),
  )
  start = 0
  for expert, size in enumerate(sizes):
    rows = slice(start, start + size)
    y_RF[rows] = x_RD[rows] @ w_EDF[expert]
    dx_RD[rows] = dy_RF[rows] @ w_EDF[expert].T
    dw_EDF[expert] = x_RD[rows].T @ dy_RF[rows]
    start += size
  return y_RF, dx_RD, dw_EDF


def attention(
  q_BLHK: Any, k_BLHK: Any, v_BLHK: Any, segment_BL: Any
) -> np.ndarray:
  """Causal attention within segments, in float64, with all scores at once."""
  q, k, v = (np.asarray(z, np.float64) for z in (q_BLHK, k_BLHK, v_BLHK))
  segment_BL = np.asarray(segment_BL)
  score_BHLS = np.einsum('blhk,bshk->bhls', q, k) * q.shape[-1] ** -0.5
  seen_BLS = segment_BL[:, :, None] == segment_BL[:, None]
  seen_BLS &= np.tri(q.shape[1], dtype=bool)
  score_BHLS = np.where(seen_BLS[:, None], score_BHLS, -np.inf)
  weight_BHLS = np.exp(score_BHLS - score_BHLS.max(-1, keepdims=True))
  weight_BHLS /= weight_BHLS.sum(-1, keepdims=True)
  return np.einsum('bhls,bshk->blhk', weight_BHLS, v)


def compared(got: Any, want: Any, dtype: str) -> dict[str, Any]:
  """The largest error over the largest value, and whether that is rounding.

  Accelerators may multiply float32 with the 8 to 10 bits of bfloat16 or TF32.
  """
  exact = dtype == 'float32' and jax.devices()[0].platform == 'cpu'
  allowed = 1e-5 if exact else 2**-7
  errors = []
  for a, b in zip(got, want, strict=True):
    difference = np.abs(np.asarray(a, np.float64) - b)
    errors.append(float(difference.max() / np.abs(b).max()))
  error = float(np.max(errors))  # nan stays nan
  return {'error': error, 'allowed': allowed, 'ok': bool(error <= allowed)}
