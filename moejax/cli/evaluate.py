r"""Evaluates the trained model of a run.

  python -m moejax.cli.evaluate --workdir=runs/tiny
  python -m moejax.cli.evaluate --workdir=runs/tiny --step=best \
    --evals=perplexity,samples --out=scores.json
  python -m moejax.cli.evaluate --workdir=runs/tiny --json \
    --config.data.files='/my/texts/*.txt'

moejax/evals/__init__.py has the table of evaluations, and says how to add one.
The text is that of the run unless --config.data.* says otherwise. The model is
on one device; --config.mesh.fsdp=-1 splits it over all.
"""

from collections.abc import Sequence

from moejax.core import exits
from moejax.evals import EVALS
from moejax.run import evaluation, evaluation_command


def main(argv: Sequence[str]) -> None:
  """Prints a table for each evaluation, or JSON."""
  evaluation_command.run(
    argv,
    __doc__,
    evaluation.evaluate,
    flag='--evals',
    default='perplexity',
    flag_help=f'some of {",".join(EVALS)}',
  )


if __name__ == '__main__':
  exits.main(main)
