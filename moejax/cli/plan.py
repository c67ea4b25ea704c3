r"""Predicts what a run will cost on TPUs or GPUs that are not there.

  moejax plan --config=ds_16b --topology=v5p:4x4x4
  moejax plan --config=ds_2b --topology=cpu:8 \
    --config.mesh.fsdp=4 --out=plan.json
  moejax plan --config=ds_16b --topology=v5p:4x4x4 --search --limit=8
  moejax plan --config=ds_16b --topology=v5p:4x4x4 \
    --slices=2 --config.train.batch_size=9216 --config.mesh.data=4

It compiles the real training step ahead of time. A TPU topology needs libtpu,
but no TPU: pip install 'moejax[tpu]'. Kinds are v4, v5e, v5p, v6e and tpu7x;
behind the colon stand the chips along each side. h100, h200, b200 and gb200
need JAX's CUDA plug-in and no GPU: pip install 'moejax[gpu_plan]'; h200:8x4 is
four hosts of eight GPUs that NVLink joins. cpu:8 is eight fake devices. The
exit code is 5 if the step does not fit into the devices' memory.
"""

from collections.abc import Sequence

from etils import epath

from moejax import config
from moejax.core import command, errors, exits, files
from moejax.plan import plan, search, table, topology


def main(argv: Sequence[str]) -> None:
  """Prints the plan, and writes it as JSON if asked to."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument(
    '--topology', required=True, help='v5p:4x4x4, h200:8x4, cpu:8 ...'
  )
  one_or_more = command.number(int, 1)
  flags.add_argument(
    '--slices',
    type=one_or_more,
    default=1,
    help='number of slices of that topology, for mesh.across',
  )
  flags.add_argument('--out', help='a JSON file to write')
  flags.add_argument(
    '--search',
    action='store_true',
    help='try other meshes, remat, micro-batches, token_chunks',
  )
  flags.add_argument(
    '--limit',
    type=one_or_more,
    help='how many --search compiles at most (default: 8)',
  )
  flags.add_argument(
    '--batch_sizes',
    default='',
    help='rows of a step for --search to try, such as 2304,4608',
  )
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  batch_sizes = search.sizes_of(args.batch_sizes)
  if batch_sizes and not args.search:
    raise errors.InputError(
      f'--batch_sizes={args.batch_sizes} is for --search; without it set '
      '--config.train.batch_size'
    )
  if args.limit is not None and not args.search:
    raise errors.InputError(
      f'--limit={args.limit} is for --search; leave it out, or add --search'
    )
  run = config.load(args.config, overrides)
  where = topology.find(args.topology, args.slices)
  if args.search:
    rows = search.run(run, where, args.limit or 8, table.say, batch_sizes)
    table.show_search(run, rows)
    tree, fits = search.to_json(rows), any(row.fits for row in rows)
  else:
    one = plan.make(run, where)
    table.show(one)
    tree, fits = one.to_json(), one.fits
  if args.out:
    files.atomic_write_json(epath.Path(args.out), tree)
  if not fits:
    raise errors.DoesNotFitError(
      f'{args.config} on {where.name} needs more memory than there is'
      + ('' if args.search else search.remedy(one))
    )


if __name__ == '__main__':
  exits.main(main, keeps=False)
