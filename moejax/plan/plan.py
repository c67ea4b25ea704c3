"""The cost of a run on a topology, as one record made before it runs.

planned = plan.make(run, topology.find('v5p:4x4x4'))
planned.fits, planned.to_json()
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from moejax.config.run import Run
from moejax.model.config import ModelConfig
from moejax.parallel import collective_bytes, program_text
from moejax.plan import compile as compiling
from moejax.plan import count, memory, program_cost, roofline, sight_count
from moejax.plan.chips import Chip
from moejax.plan.topology import Slice

# The sources of the figures, which are printed and written beside them.
SOURCES = {
  'compiler': 'read from the compiled training step: temporary memory, '
  'collectives, for TPUs the cycles of each fusion (times the trips of its '
  'loops)',
  'arithmetic': 'shapes and published figures of the chip: parameters, model '
  'FLOPs, bytes of the state, the roofline, the time of Pallas kernels '
  f'(assumed to reach {roofline.KERNEL_SHARE:.0%} of theirs) and of '
  'collectives; for GPUs of every instruction',
  'measured': 'nothing: no chip was there',
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """The cost of a run on some devices.

  Attributes:
    run: config of the run.
    where: the devices.
    counted: parameters and FLOPs of the model.
    mesh: sizes of the mesh's axes.
    memory: bytes on a device.
    cost: work of a device in a step; None if the step did not compile.
    collectives: bytes that a device sends in a step, by kind of collective and
      mesh axes; in place of axes, 'between slices' for the data centre network.
    times: seconds of a step; None if it did not compile, or on CPU.
    seconds: seconds that lowering and compiling took here.
  """

  run: Run
  where: Slice
  counted: count.Count
  mesh: dict[str, int]
  memory: memory.Memory
  cost: program_cost.Cost | None
  collectives: dict[tuple[str, str], float]
  times: roofline.Times | None
  seconds: dict[str, float]

  @property
  def fits(self) -> bool:
    """Whether the memory of a device is enough."""
    return self.memory.fits

  @property
  def tokens(self) -> int:
    """Tokens of a step."""
    return self.run.train.batch_size * self.run.data.sequence_length

  @property
  def model_flops(self) -> float:
    """FLOPs of a step over all devices; see `count.Count.flops`."""
    length = self.run.data.sequence_length
    images = sight_count.of_run(self.run).flops(self.run.model)
    return (self.counted.flops(length) + images) * self.run.train.batch_size

  def budget(self, step: float, chip: Chip) -> dict[str, float]:
    """Time and chips for all steps of the run, and how well they are used.

    Args:
      step: seconds of one step.
      chip: peak rates of a device.
    """
    total = step * self.run.train.steps
    return {
      'step_seconds': step,
      'tokens_per_second': self.tokens / step,
      'model_flops_utilisation': roofline.utilisation(
        self.model_flops, step, len(self.where.devices), chip
      ),
      'days': total / 86_400,
      'chip_hours': total / 3600 * self.where.chips,
    }

  def estimates(self) -> dict[str, dict[str, float]]:
    """`budget` by name of the estimate; empty on CPU or without a program."""
    chip = self.where.chip
    if self.times is None or chip is None:
      return {}
    return {
      self.times.name: self.budget(self.times.in_turn, chip),
      'roofline': self.budget(self.times.roofline, chip),
    }

  def to_json(self) -> dict[str, Any]:
    """The record as JSON values; sizes in bytes, times in seconds."""
    tree = {
      'topology': self.where.name,
      'chips': self.where.chips,
      'devices': len(self.where.devices),
      'slices': self.where.slices,
      'mesh': self.mesh,
      'remat': self.run.model.remat,
      'batch_size': self.run.train.batch_size,
      'micro_batches': self.run.train.micro_batches,
      'token_chunks': self.run.model.token_chunks,
      'sequence_length': self.run.data.sequence_length,
      'parameters': {
        'total': self.counted.total,
        'active': self.counted.active,
      },
      'model_flops_per_token': self.model_flops / self.tokens,
      'model_flops_per_step': self.model_flops,
      'fits': self.fits,
      'bytes_per_device': {
        'limit': self.where.memory,
        'total': self.memory.total,
        'peak': self.memory.peak,
        'parts': [
          {'part': part, 'bytes': size, 'source': source}
          for part, size, source in self.memory.rows()
        ],
        'refusal': self.memory.refusal,
      },
      'collectives': [
        {'kind': kind, 'axes': axes, 'bytes_per_step': size}
        for (kind, axes), size in sorted(self.collectives.items())
      ],
      'token_budget': self.tokens * self.run.train.steps,
      'estimates': self.estimates(),
      'seconds': self.seconds,
      'sources': SOURCES,
    }
    if self.cost is not None:
      tree['program'] = {
        'matmul_flops_per_device': self.cost.flops,
        'kernel_flops_per_device': self.cost.kernel_flops,
        'flops_in_branches': self.cost.optional_flops,
        'bytes_per_device': self.cost.num_bytes + self.cost.kernel_bytes,
        'loops_without_trip_count': self.cost.unknown_loops,
      }
    if self.times is not None:
      tree['seconds_per_step'] = {
        **self.times.seconds(),
        'bound': self.times.bound,
      }
    return tree


def make(run: Run, where: Slice) -> Plan:
  """Compiles the run's step for the devices, and reads its cost.

  Raises:
    InputError: sizes that do not fit together or do not divide over the mesh.
  """
  compiled = compiling.training_step(run, where)
  sizes = dict(compiled.mesh.shape)
  cost, sent, times = None, {}, None
  if compiled.program is not None:
    program = program_text.Program(compiled.text)
    cost = program_cost.of_program(
      program, _row_overhead(run.model, sizes['expert'])
    )
    moves = collective_bytes.of_program(program, where.slices)
    devices = _of_one_slice(compiled.mesh, where)
    sent = collective_bytes.by_axis(
      moves, dict(zip(sizes, devices.shape, strict=True))
    )
    if where.chip is not None:
      times = roofline.times(cost, moves, where.chip, list(devices.flat))
  return Plan(
    run=run,
    where=where,
    counted=count.count(run.model),
    mesh=sizes,
    memory=memory.of(compiled, where.memory),
    cost=cost,
    collectives=sent,
    times=times,
    seconds=compiled.seconds,
  )


def _row_overhead(model: ModelConfig, num_devices: int) -> float:
  """Rows that experts' kernels are given over those that they compute.

  See `ExpertParallel.row_overhead`. It is 1 on one device or without experts.
  """
  if num_devices == 1 or not model.num_moe:
    return 1.0
  return model.moe.expert_parallel.row_overhead(num_devices)


def _of_one_slice(mesh: jax.sharding.Mesh, where: Slice) -> np.ndarray:
  """The devices of the first slice, as a block of the mesh.

  The text of a program for several slices numbers the devices of one slice.
  """
  if where.slices == 1:
    return mesh.devices
  is_first = np.vectorize(lambda device: device.slice_index == 0)(mesh.devices)
  indices = [sorted({*axis.tolist()}) for axis in np.nonzero(is_first)]
  return mesh.devices[np.ix_(*indices)]
