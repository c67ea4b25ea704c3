r"""Evaluates the trained models of runs, or imported ones.

  moejax evaluate --workdir=runs/tiny
  moejax evaluate --workdir=runs/tiny --step=best \
    --evals=perplexity,samples --out=scores.json
  moejax evaluate --workdir=runs/tiny --json \
    --config.data.files='/my/texts/*.txt'
  moejax evaluate --workdir=runs/tiny --suite=offline
  moejax evaluate --workdir=runs/a --workdir=runs/b \
    --suite=deepseekmoe --tasks=hellaswag,piqa --data=/my/benchmarks --limit=500
  moejax evaluate --workdir=runs/a --tasks=humaneval \
    --run_generated_code --samples=20 --temperature=0.8

moejax/evals/__init__.py has the table of evaluations, and says how to add one.
The text is that of the run unless --config.data.* says otherwise. The model is
on one device; --config.mesh.fsdp=-1 splits it over all.

With --suite the models answer benchmarks, which docs/evaluation.md describes.
Every finished task is kept in the workdir, so the same command goes on after an
interruption. Several workdirs are columns of one table.
"""

import functools
from collections.abc import Sequence

from moejax.core import command, errors, exits, files
from moejax.evals import EVALS
from moejax.model import rounded
from moejax.run import evaluation, evaluation_command, suite_command, trained


def main(argv: Sequence[str]) -> None:
  """Prints a table for each evaluation or that of a suite, or JSON."""
  flags = evaluation_command.flags(
    __doc__,
    flag='--evals',
    default='perplexity',
    flag_help=f'some of {",".join(EVALS)}',
  )
  flags.add_argument(
    '--workdir', required=True, action='append', help='of a run'
  )
  trained.add_weights_flag(flags)
  suite_command.add_flags(flags)
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  if suite_command.wanted(args):
    if args.weights != rounded.FULL:
      raise errors.InputError(
        f'suites are of full weights: leave out --weights={args.weights}'
      )
    suite_command.run(args, overrides)
    return
  if len(args.workdir) > 1:
    raise errors.InputError(
      'several --workdir need --suite: evaluations are of one run'
    )
  evaluation_command.run(
    args.workdir[0],
    args,
    overrides,
    functools.partial(evaluation.evaluate, weights=args.weights),
    'evals',
  )


if __name__ == '__main__':
  exits.main(main)
