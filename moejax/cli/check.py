"""Compares a config's experts with the reference, on this machine.

  moejax check --config=ds_2b
  moejax check --config=tiny --config.mesh.expert=4

This is the self-check that every run makes before step 0
(moejax/moe/self_check.py). It builds a small layer with the config's router,
dispatcher, expert parallelism and grouped matmul on all devices, and compares
its output and gradients with those of the reference on one device.
"""

from collections.abc import Sequence

from moejax import config
from moejax.core import command, errors, exits, quantization
from moejax.model import compute_dtype
from moejax.moe import self_check
from moejax.parallel import mesh as meshes


def main(argv: Sequence[str]) -> None:
  """Prints the relative errors; exit code 3 if one is too large."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  args, overrides = command.parse(flags, argv)
  run = config.load(args.config, overrides)
  if not run.model.num_moe:
    raise errors.InputError(
      f'{args.config} has no layer with experts: there is nothing to check'
    )
  mesh = meshes.make(run.mesh)
  dtype = compute_dtype.resolve(run.model.dtype, [*mesh.devices.flat])
  quantization.check(run.model.quantization)
  deviations = self_check.run(
    run.model.moe, dtype, mesh, run.model.quantization
  )
  for name, error in deviations.items():
    print(f'{name:40} {error:.1e} of its size')
  print('The experts agree with the reference.')


if __name__ == '__main__':
  exits.main(main, keeps=False)
