r"""Evaluates a run's model under an intervention on its routing.

  moejax intervene --list
  moejax intervene --workdir=runs/tiny --what=mask_top \
    --values=0,1/16,1/8,3/16,1/4
  moejax intervene --workdir=runs/tiny --what=active \
    --layers=1,3 --batches=4 --suite=offline --limit=100

moejax/analysis/interventions/__init__.py has the table of interventions, and
says how to add one. The model as it is comes first, then each value, with the
same weights on the same text. Differences to the model as it is have 95%
intervals by a paired bootstrap over rows or items.

The result is WORKDIR/interventions/WHAT.json, with a picture beside it (needs
pip install 'moejax[plot]'). The same command goes on after an interruption. The
model is on one device; --config.mesh.fsdp=-1 splits it over all.
"""

from collections.abc import Sequence

from moejax.core import command, exits, terminal
from moejax.run import intervention_command


def main(argv: Sequence[str]) -> None:
  """Prints the table of an intervention, or lists all interventions."""
  args, overrides = command.parse(intervention_command.flags(__doc__), argv)
  if args.list:
    terminal.say(intervention_command.listing())
    return
  intervention_command.run(args, overrides)


if __name__ == '__main__':
  exits.main(main)
