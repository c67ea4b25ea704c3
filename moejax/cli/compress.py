r"""Makes a model with fewer experts, for the text that matters.

  moejax compress --list
  moejax compress --workdir=runs/olmoe --files=my_texts \
    --method=easy_ep --keep=16 --to=runs/olmoe_16
  moejax compress --workdir=runs/tiny --method=m_smoe --keep=4 \
    --domains=code=0.5,scripture=0.5 --to=runs/tiny_4
  moejax compress --workdir=runs/tiny --sweep --keep=8,16,24 \
    --method=easy_ep,gate_score,frequency,random

docs/compress.md says what the methods do. The text that matters is --files,
each a domain, or --mixture, or else the validation sets of the run. The new
workdir is for `moejax evaluate`, `moejax generate`, `moejax convert export`,
and for training: `--config=hf/continue:WORKDIR`. Its compression.json says what
was made from what. --export=FOLDER writes a Hugging Face folder instead,
--mask=FILE the choice alone.

--sweep evaluates models in memory on the validation sets, prints a table, and
writes WORKDIR/compressions/sweep.json with a picture beside it (needs pip
install 'moejax[plot]'); the same command goes on after an interruption. Without
another text it calibrates on the first half of the sets, and evaluates on the
second. The model is on one device; --config.mesh.fsdp=-1 splits it over all.
"""

from collections.abc import Sequence

from moejax.core import command, exits, terminal
from moejax.run import compression_command


def main(argv: Sequence[str]) -> None:
  """Makes a model or a mask, compares methods, or lists them."""
  args, overrides = command.parse(compression_command.flags(__doc__), argv)
  if args.list:
    terminal.say(compression_command.listing())
    return
  compression_command.run(args, overrides)


if __name__ == '__main__':
  exits.main(main)
