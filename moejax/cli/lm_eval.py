r"""lm-evaluation-harness with the model of a run.

  moejax lm_eval --model moejax \
    --model_args workdir=runs/olmoe,pretrained=runs/olmoe \
    --tasks hellaswag,arc_easy --output_path results

All flags are those of `lm_eval`, which must be installed (moejax[harness]).
`pretrained` names the folder of the results; the harness makes a name up
without it. Other model arguments: step=best, max_length=2048, and config keys
such as config.mesh.fsdp=-1. More: docs/evaluation.md.
"""

import importlib
from collections.abc import Sequence

from moejax.core import exits
from moejax.run import harness


def main(argv: Sequence[str]) -> None:
  """Registers the model and runs lm_eval's own command."""
  del argv  # lm_eval reads sys.argv
  harness.register()
  importlib.import_module('lm_eval.__main__').cli_evaluate()


if __name__ == '__main__':
  exits.main(main, keeps=False)
