"""Compares the chosen path with the reference on this machine, before step 0.

Kernels for grouped matmuls and collectives have been silently wrong, mostly in
gradients and mostly for experts without tokens. So a small layer with the
configured router, dispatcher, expert parallelism and grouped matmul is computed
on the run's own mesh, as in a training step. Its output and gradients are
compared with those of the reference on one device. Whatever the router chooses,
the first expert gets no token and the last one most of them.

The layer has no shared experts. They are plain matmuls outside of kernels and
collectives, which the reference would compute by the same code. Their output
would only add to the values that errors of the routed experts are compared
with, and so hide some of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, trees
from moejax.core import quantization as quantizations
from moejax.moe import contract, feed_forward, layer
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import TokenInfo
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes

OUTPUT = 'output'
# Largest error over the largest value, by compute type. An implementation that
# is wrong has errors as large as the values.
TOLERANCE = {'float32': 1e-4, 'bfloat16': 5e-2}
# With `model.quantization`. A number that another order of a sum moves across
# the border between two rounded ones differs by a whole step of the type.
TOLERANCE_QUANTISED = 0.2
# On accelerators, where matmuls of float32 round to fewer bits by default.
TOLERANCE_ACCELERATOR = 5e-2
# The smallest value that the error of a gradient is divided by, relative to the
# largest gradient. A smaller gradient may be rounding alone, as that of a
# router on whose scores no weight depends.
LEAST_GRADIENT = 1e-2


@dataclasses.dataclass(frozen=True)
class Size:
  """The size of the checked layer and its batch.

  Attributes:
    rows: sequences; rounded up to a multiple of the batch's shards.
    row_length: tokens of a sequence.
    width: D.
    hidden: F, of each device that the hidden width is split over.
  """

  rows: int = 4
  row_length: int = 256
  width: int = 16
  hidden: int = 8


@dataclasses.dataclass(frozen=True)
class Skewed:
  """A router's own assignments, but none for the first expert.

  Assignments to the first expert go to the last one, and so do all assignments
  of three tokens in four. The list, its order and its weights are the router's,
  and so is every attribute that is not defined here.

  Example, 4 experts, all tokens ask for [0, 2]: token 0 gets [3, 2], tokens 1
  to 3 get [3, 3], token 4 is as token 0.
  """

  router: contract.Router
  num_experts: int

  def __getattr__(self, name: str) -> Any:
    return getattr(self.router, name)

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    routing = self.router(inputs)
    last = self.num_experts - 1
    moves_A = inputs.index_T[routing.token_A] % 4 > 0
    expert_A = jnp.where(
      (routing.expert_A == 0) | (moves_A & (routing.expert_A <= last)),
      last,
      routing.expert_A,
    )
    return dataclasses.replace(routing, expert_A=expert_A)


def run(
  config: MoEConfig,
  dtype: str,
  mesh: Mesh,
  quantization: str = quantizations.NONE,
  size: Size = Size(),
) -> dict[str, float]:
  """Checks output and gradients of a small layer; returns `differences`.

  Args:
    config: of the layer; widths are replaced by small ones.
    dtype: compute type.
    mesh: the devices.
    quantization: an entry of QUANTIZATIONS, also for the reference.
    size: of the small layer and its batch.

  Raises:
    StoppedError: an error is above the tolerance. The message names the array
      that differs, by how much, and what to set.
  """
  tolerance = TOLERANCE[dtype]
  platform = mesh.devices.flat[0].platform
  if platform != 'cpu':
    tolerance = max(tolerance, TOLERANCE_ACCELERATOR)
  if quantization != quantizations.NONE:
    tolerance = max(tolerance, TOLERANCE_QUANTISED)
  errors_by_name = differences(config, dtype, mesh, size, quantization)
  for name, error in errors_by_name.items():
    if not error <= tolerance:
      expert_parallel = ''
      if mesh.shape['expert'] > 1:
        expert_parallel = f'expert_parallel {config.expert_parallel}, '
      raise errors.StoppedError(
        f'self-check: {name} of the experts differs by {error:.2g} of its size '
        f'from the reference (dispatcher {config.dispatcher}, {expert_parallel}'
        f'grouped matmul {config.grouped_matmul!r} on {platform}); set '
        'model.moe.grouped_matmul, model.moe.dispatcher or '
        'model.moe.expert_parallel to another one'
      )
  return errors_by_name


def differences(
  config: MoEConfig,
  dtype: str,
  mesh: Mesh,
  size: Size = Size(),
  quantization: str = quantizations.NONE,
) -> dict[str, float]:
  """The largest error over the largest value, of output and each gradient.

  The worst over all kinds of expert parallelism that the run may take.
  """
  num_shards = meshes.batch_size(mesh)
  size = dataclasses.replace(
    size,
    rows=-(-size.rows // num_shards) * num_shards,
    hidden=size.hidden * mesh.shape['model'],
  )
  # Not a subclass of Router, but it has every attribute of the wrapped router.
  skewed: Any = Skewed(config.router, config.num_experts)
  small = dataclasses.replace(
    config, expert_width=size.hidden, num_shared=0, router=skewed
  )
  reference = dataclasses.replace(small, grouped_matmul='reference')
  one_device = meshes.make(meshes.MeshConfig(data=1), mesh.local_devices[:1])
  problem = _problem(small, dtype, size)
  want = _output_and_gradients(
    reference,
    one_device,
    quantization,
    problem,
    hosts.quick_compile(one_device),
  )
  worst = dict.fromkeys(want, 0.0)
  largest = max(_size(x) for name, x in want.items() if name != OUTPUT)
  least = dict.fromkeys(want, LEAST_GRADIENT * largest) | {OUTPUT: 0.0}
  paths = config.expert_parallel.lossless(mesh.shape['expert'])
  for expert_parallel in paths:
    path = dataclasses.replace(small, expert_parallel=expert_parallel)
    got = _output_and_gradients(path, mesh, quantization, problem, {})
    for name, leaf in want.items():
      # Not max(): a nan is the worst of all.
      error = _error(got[name], leaf, least[name])
      worst[name] = float(np.maximum(worst[name], error))
  return worst


def _output_and_gradients(
  config: MoEConfig,
  mesh: Mesh,
  quantization: str,
  problem: Any,
  options: Any,
) -> dict[str, np.ndarray]:
  """Output and gradients of a layer on a mesh, by name.

  Args:
    config: of the layer.
    mesh: the devices.
    quantization: of the layer's products.
    problem: from `_problem`.
    options: compiler options.
  """
  weights, x, cotangent = problem
  rows, length, width = x.shape
  make = lambda: layer.MoE(
    config, width, 1.0, mesh, jax.random.key(0), quantization=quantization
  )
  graph, _ = nnx.split(nnx.eval_shape(make))
  index_BL = jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, length)
  tokens = TokenInfo(index_BL > 0, index_BL, index_BL % 64)
  previous = feed_forward.no_previous_layer(config, rows, length)

  def loss(weights: Any, x: jax.Array) -> Any:
    moe = nnx.merge(graph, nnx.State(jax.tree.map(nnx.Param, weights)))
    out, _, _ = moe(x, tokens, previous, jax.random.key(1))
    return jnp.vdot(out.astype(jnp.float32), cotangent), out

  gradient = jax.jit(
    jax.grad(loss, argnums=(0, 1), has_aux=True), compiler_options=options
  )
  (weight_gradients, x_gradient), out = jax.tree.map(
    hosts.fetch, gradient(weights, x)
  )
  weight_gradients.pop('router_state', None)
  return {
    OUTPUT: out,
    'gradient of the tokens': x_gradient,
    **{
      f'gradient of {p}': g for p, g in trees.leaves(weight_gradients).items()
    },
  }


def _error(got: np.ndarray, want: np.ndarray, least: float) -> float:
  """The largest error over the largest value, or over `least` if larger."""
  got, want = got.astype(np.float32), want.astype(np.float32)
  return _size(got - want) / max(_size(want), least, 1e-9)


def _size(x: np.ndarray) -> float:
  """The largest absolute value."""
  return float(np.max(np.abs(x.astype(np.float32)), initial=0))


def _problem(config: MoEConfig, dtype: str, size: Size) -> Any:
  """Random weights, token vectors [B, L, D] and a cotangent of the output."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  make = lambda: layer.MoE(config, size.width, 1.0, mesh, jax.random.key(0))
  shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make)))
  rng = np.random.default_rng(0)

  def draw(path: str, leaf: Any) -> np.ndarray:
    if path.startswith('router_state'):
      return np.zeros(leaf.shape, np.float32)
    return rng.normal(size=leaf.shape).astype(np.float32)

  weights = trees.map_paths(draw, shapes)
  shape = (size.rows, size.row_length, size.width)
  x = rng.normal(size=shape).astype(np.float32)
  cotangent = rng.normal(size=shape).astype(np.float32)
  return weights, jnp.asarray(x, dtype), cotangent
