r"""Trains every run of a list, and compares them in one table.

  moejax sweep --sweep=routers --list
  moejax sweep --sweep=routers --processes=2 --out=docs/routers.md
  moejax sweep --sweep=routers \
    --only=switch,gshard --config.train.steps=50 --workdir=runs/short
  moejax sweep --sweep=routers --runner=slurm --processes=8 \
    --sbatch='--partition=gpu --gpus=1 --time=4:00:00' --dry_run
  moejax sweep --sweep=routers --table

docs/sweeps.md shows how to write a sweep file. `--config.*` is for all its
runs, after what the file says.

Run the same command again: finished runs stay as they are, an interrupted run
goes on from its last checkpoint, and a failed run is tried again. A run that
fails does not stop the others. The workdir holds:

  <run>/           a training run as moejax.main makes it, its log.txt, and
                   ended.json: why it failed, and how long it took
  compile_cache/   compiled programs, for all runs of one shape
  results.json     every number of the table, and of each run
  results.md       the table: bits per byte with its spread over seeds, balance,
                   dropped assignments, speed, parameters; best first; paired
                   tests over seeds, and runs that are not finished
  results.png      a picture of it (needs pip install 'moejax[plot]')
  report.html      a page that compares the runs

--out=FILE puts table and picture into a document as well, between the lines
`<!-- begin sweep NAME -->` and `<!-- end sweep NAME -->`, where NAME is that of
the sweep file; a file that does not exist is made.

--processes=N trains N runs at a time, each on its share of this machine's cores
and GPUs; a TPU chip takes one process. Where runs share them, a step is slower
than alone, as tokens/s show. If runs are short, much of their time is the
evaluation at the end: set report.eval_batches and report.samples in the sweep
file. --runner=slurm submits an array of jobs, of which --processes run at a
time, --runner=xpk a workload on GKE for each run.
"""

from collections.abc import Sequence

from moejax.core import command, exits
from moejax.sweep import command as sweep_command


def main(argv: Sequence[str]) -> None:
  """Reads the flags, trains what is not finished, and shows the table."""
  sweep_command.run(*command.parse(sweep_command.flags(__doc__), argv))


if __name__ == '__main__':
  exits.main(main)
