"""Compiles kernels for NVIDIA GPUs that are not there; writes JSON.

  python tests/helpers/gpu_compile.py '[{"devices": 1, ...}]'

A case has `devices`, the number of GPUs of one host, and `gpu`, their kind,
h200 if it has none. It has either a grouped matmul:

  name             its name in GROUPED_MATMULS, or `auto`: the experts as
                   `choose` makes them
  shape            rows, depth, width, experts
  dtypes           of the rows and of the weights
  split            whether the experts are split over the devices too

or a whole layer with experts, which are split over the devices:

  expert_parallel  the name of the kind in EXPERT_PARALLEL

or attention, with `auto` of GPUs, whose rows are split over the devices:

  heads            rows, tokens, query heads, key heads, widths of keys and of
                   values
  dtype            of all of them

The JSON has for each case: the compiled program's Triton kernels, its
collectives, and the bytes of its temporaries; or the compiler's error.
"""

import json
import re
import sys

import ahead_of_time
import jax

from benchmarks import expert_parallel as benchmark
from benchmarks import standard
from moejax.model.attention import dot_product, narrow_values
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import collective_bytes, rules
from moejax.parallel import mesh as meshes
from moejax.plan import topology


def main() -> None:
  reports = [_case(**case) for case in json.loads(sys.argv[1])]
  sys.stdout.write(json.dumps(reports))


def _case(devices, gpu='h200', expert_parallel=None, heads=None, **case):
  gpus = topology.find(f'{gpu}:{devices}').devices
  try:
    if expert_parallel:
      return _report(_layer(gpus, expert_parallel))
    if heads:
      return _report(_attention(gpus, heads, **case))
    return _report(ahead_of_time.matmul(gpus, **case))
  except jax.errors.JaxRuntimeError as e:
    return {'error': str(e)[:500]}


def _layer(devices, expert_parallel):
  config = ModelConfig(
    width=256, moe=MoEConfig(num_experts=8, expert_width=128)
  )
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=len(devices)), devices)
  with jax.set_mesh(mesh):
    return benchmark.compiled(
      standard.Shape(config, 4, 250),
      EXPERT_PARALLEL[expert_parallel](),
      devices,
      backward=True,
    )


def _attention(devices, heads, dtype):
  """Attention and its gradients."""
  rows, length, num_heads, groups, width_k, width_v = heads
  mesh = meshes.make(meshes.MeshConfig(data=len(devices)), devices)
  core = dot_product.choose('auto', 'gpu', mesh)
  by_rows = rules.sharding(('rows',), mesh)
  shapes = [
    (num_heads, width_k),
    (groups, width_k),
    (groups, width_v),
    (num_heads, width_v),
  ]
  arrays = [
    jax.ShapeDtypeStruct((rows, length, *shape), dtype, sharding=by_rows)
    for shape in shapes
  ]
  segment_BL = jax.ShapeDtypeStruct((rows, length), 'int32', sharding=by_rows)

  def both(q, k, v, pull, segment_BL):
    attend = lambda q, k, v: narrow_values.attend(core, q, k, v, segment_BL)
    out, back = jax.vjp(attend, q, k, v)
    return out, *back(pull)

  with jax.set_mesh(mesh):
    return jax.jit(both).lower(*arrays, segment_BL).compile()


def _report(compiled):
  """What a compiled program has in it."""
  text = compiled.as_text()
  calls = [
    line for line in text.splitlines() if '"__gpu$xla.gpu.triton"' in line
  ]
  return {
    'kernels': [
      re.search(r'moejax_triton_([a-z_]+)', line)[1] for line in calls
    ],
    'collectives': sorted(
      collective_bytes.by_kind(
        collective_bytes.collectives(text), optional=True
      )
    ),
    'temporaries': compiled.memory_analysis().temp_size_in_bytes,
  }


if __name__ == '__main__':
  main()
