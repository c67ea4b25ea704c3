"""Counts the bytes that each kind of expert parallelism moves.

python -m benchmarks.expert_parallel

Prints bytes per token over a lower bound, forward and backward. The bytes are
read in programs that are compiled for eight devices and not run. Where there
are fewer devices, a process with eight fake CPU devices compiles them.

There are two lower bounds of the bytes per token. A token vector has D numbers
of b bytes, P devices hold E / P experts each, and any K experts of a token are
equally likely:

  by itself  each assignment sends its token vector to the expert's device and
             its output back: 2 K (P - 1) / P D b
  together   a token vector is sent once to each device that has some of its
             experts, and one sum comes back: 2 n D b, with n the expected
             number of such devices besides the token's own

The backward pass sends as much again: the gradient of the output, and that of
the input back.
"""

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import standard
from benchmarks.standard import Shape
from moejax.core import command, errors, exits, trees
from moejax.moe import feed_forward, layer
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.feed_forward import TokenInfo
from moejax.parallel import collective_bytes, hosts, rules
from moejax.parallel import mesh as meshes

DEVICES = 8
# Kinds whose collective does not exist on CPU: there a stand-in gathers all
# rows instead of a ragged all-to-all.
STAND_INS = ('ragged_all_to_all',)


def main(argv: Sequence[str]) -> None:
  """Reads the flags; compiles and counts, if need be in another process."""
  flags = command.parser(__doc__)
  flags.add_argument(
    '--rows',
    type=command.number(int, 1),
    default=standard.STANDARD.rows,
    help='sequences of the batch (default: %(default)s)',
  )
  args = standard.parse(flags, argv)
  if len(jax.devices()) >= DEVICES:
    report(dataclasses.replace(standard.STANDARD, rows=args.rows))
  else:
    _report_elsewhere(args.rows)


def _report_elsewhere(rows: int) -> None:
  """Runs `report` in a process with fake devices."""
  # How many devices a CPU pretends to be is decided before JAX starts.
  flag = f'--xla_force_host_platform_device_count={DEVICES}'
  env = dict(os.environ, JAX_PLATFORMS='cpu')
  env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} {flag}'
  words = [sys.executable, '-m', 'benchmarks.expert_parallel', f'--rows={rows}']
  done = subprocess.run(
    words, env=env, capture_output=True, text=True, check=False
  )
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ['no error was printed']
    raise errors.InputError(
      f'expert_parallel on eight devices failed: {lines[-1]}'
    )
  print(done.stdout, end='')


def report(shape: Shape) -> None:
  """Prints bytes per token and layer of every kind."""
  shape = shape.with_moe(num_shared=0)
  moe = shape.config.moe
  itself, together = least(shape)
  rows = {
    name: [
      moved(shape, expert_parallel, backward=backward)
      for backward in (False, True)
    ]
    for name, expert_parallel in _kinds().items()
  }
  kinds = sorted({kind for _, both in rows.values() for kind in both})
  print(
    f'(bytes that a device sends per token of its own, one layer of '
    f'{moe.num_experts} experts on {DEVICES} devices, '
    f'{shape.tokens // DEVICES} tokens each, float32; no shared experts)\n'
    f'the least, forward: {itself:.0f} if each assignment travels by itself, '
    f'{together:.0f} if a token travels once to a device\n'
    f'{"":28s} {"forward":>9s} {"over least":>10s}  {"and backward":>12s} '
    f'{"over least":>10s}   of which {", ".join(kinds)}'
  )
  for name, (forward, both) in rows.items():
    sent, total = sum(forward.values()), sum(both.values())
    by_kind = ' '.join(f'{both.get(kind, 0):9.0f}' for kind in kinds)
    print(
      f'{name:28s} {sent:9.0f} {sent / together:10.2f}  {total:12.0f} '
      f'{total / (2 * together):10.2f}   {by_kind}'
    )
  print(
    f'(over the least of tokens that travel once; {", ".join(STAND_INS)}: on '
    'CPU what its stand-in moves)'
  )


def least(shape: Shape) -> tuple[float, float]:
  """Bytes per token forward, by itself and together; see the module."""
  moe = shape.config.moe
  total, k = moe.num_experts, round(moe.experts_per_token)
  others = (DEVICES - 1) / DEVICES
  # The probability that a device has none of a token's k experts.
  none = math.comb(total - total // DEVICES, k) / math.comb(total, k)
  there_and_back = 2 * shape.config.width * 4
  return (
    there_and_back * k * others,
    there_and_back * (DEVICES - 1) * (1 - none),
  )


def moved(
  shape: Shape, expert_parallel: Any, *, backward: bool
) -> dict[str, float]:
  """Bytes by kind of collective, per token of a device.

  Args:
    shape: of the layer and its batch.
    expert_parallel: an entry of EXPERT_PARALLEL.
    backward: whether the bytes of the backward pass are counted too.
  """
  devices = jax.devices()[:DEVICES]
  text = compiled(shape, expert_parallel, devices, backward=backward).as_text()
  sums = collective_bytes.by_kind(collective_bytes.collectives(text))
  each = shape.tokens / DEVICES
  return {kind: sent / each for kind, sent in sums.items()}


def compiled(
  shape: Shape, expert_parallel: Any, devices: list[Any], *, backward: bool
) -> Any:
  """The layer compiled for devices, which may be descriptions without hardware.

  Args:
    shape: of the layer and its batch.
    expert_parallel: an entry of EXPERT_PARALLEL.
    devices: the devices of the expert axis.
    backward: whether the gradient is computed too.
  """
  config = shape.config
  moe = dataclasses.replace(config.moe, expert_parallel=expert_parallel)
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=len(devices)), devices)
  graph, state = nnx.split(
    nnx.eval_shape(
      lambda: layer.MoE(
        moe, config.width, config.init_std, mesh, jax.random.key(0)
      )
    )
  )
  axes = {
    '/'.join(map(str, path)): variable.get_metadata()['axes']
    for path, variable in nnx.to_flat_state(state)
  }
  weights = trees.map_paths(
    lambda path, leaf: _on(mesh, leaf, rules.spec(axes[path])),
    nnx.to_pure_dict(state),
  )
  rows = PartitionSpec(meshes.BATCH_AXES)
  size = jax.ShapeDtypeStruct((shape.rows, shape.length), jnp.int32)
  index_BL = _on(mesh, size, rows)
  valid_BL = _on(mesh, jax.ShapeDtypeStruct(size.shape, bool), rows)
  tokens = TokenInfo(valid_BL, index_BL, index_BL)
  x_BLD = jax.ShapeDtypeStruct((*size.shape, config.width), jnp.float32)

  def loss(weights: Any, x_BLD: jax.Array, tokens: Any) -> jax.Array:
    previous = feed_forward.no_previous_layer(moe, shape.rows, shape.length)
    state = nnx.State(jax.tree.map(nnx.Param, weights))
    out_BLD = nnx.merge(graph, state)(x_BLD, tokens, previous, None)[0]
    return jnp.sum(out_BLD**2)

  run = jax.value_and_grad(loss, argnums=(0, 1)) if backward else loss
  lowered = jax.jit(run).lower(weights, _on(mesh, x_BLD, rows), tokens)
  return lowered.compile(compiler_options=hosts.overlap(mesh))


def _kinds() -> dict[str, Any]:
  """Every entry of EXPERT_PARALLEL, and bounded ones also with factor 1.

  Bounded entries drop on overflow, because the program of a fallback would be
  counted too.
  """
  kinds = {}
  for name, kind in EXPERT_PARALLEL.items():
    fields = {field.name for field in dataclasses.fields(kind)}
    drop = {'overflow': 'drop'} if 'overflow' in fields else {}
    expert_parallel = kind(**drop)
    factor = getattr(expert_parallel, 'factor', None)
    kinds[name if factor is None else f'{name}, factor {factor:g}'] = (
      expert_parallel
    )
    if factor is not None:
      kinds[f'{name}, factor 1'] = kind(**drop, factor=1.0)
  return kinds


def _on(mesh: jax.sharding.Mesh, x: Any, spec: PartitionSpec) -> Any:
  """An abstract array with a sharding, to lower a function with."""
  sharding = NamedSharding(mesh, spec)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


if __name__ == '__main__':
  exits.main(main, keeps=False)
