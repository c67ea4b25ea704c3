r"""Shows a CodeMMLU result as its paper does, and writes a leaderboard file.

  moejax evaluate --workdir=runs/a --suite=codemmlu \
    --tasks=zero_shot --data=/my/benchmarks
  moejax codemmlu --result=runs/a/evals/codemmlu/step_350/zero_shot.json \
    --submission=answers.txt --data=/my/benchmarks

A result of `permuted` or `letters_permuted` is shown by position of the right
option. --metric=official is the extraction of the paper's authors, with its
faults; see moejax/evals/benchmarks/codemmlu.py.
"""

import json
from collections.abc import Sequence

from etils import epath

from moejax.core import command, errors, exits, files, terminal
from moejax.core.console import Console
from moejax.core.errors import InputError
from moejax.evals import codemmlu_report
from moejax.evals.suite import Result
from moejax.run import tables


def main(argv: Sequence[str]) -> None:
  """Prints the scores, and writes --submission."""
  flags = command.parser(__doc__)
  flags.add_argument('--result', required=True, help='JSON file of a task')
  flags.add_argument('--metric', help="such as official; default: the task's")
  flags.add_argument('--submission', help='file of task_id and letter')
  flags.add_argument('--data', default='hub', help='where the rows are')
  args = command.parse_alone(flags, argv)
  if args.submission:
    files.check_output(args.submission, '--submission')
  result, seed = _read(args.result)
  metric = args.metric or result.metric
  if metric not in result.means:
    raise InputError(
      f'--metric={metric}: the result has {", ".join(sorted(result.means))}'
    )
  scores = codemmlu_report.position_bias(result.groups, metric)
  title = f'{result.benchmark}: {metric} by position of the right option'
  if not scores:
    scores = codemmlu_report.by_kind(result.groups, metric)
    title = f'{result.benchmark}: {metric}'
  if not scores:
    raise InputError(
      f'--result={errors.shown(args.result)}: {result.benchmark} is no task of '
      'the suite codemmlu; give a result of one'
    )
  rows = {name: {metric: score} for name, score in scores.items()}
  Console(highlight=False).print(tables.table(title, rows))
  if args.submission:
    text, silent = codemmlu_report.submission(result, args.data, seed)
    files.atomic_write_text(epath.Path(args.submission), text)
    terminal.note(
      f'{args.submission}: {len(text.splitlines())} answers; {silent} '
      'questions have none'
    )


def _read(path: str) -> tuple[Result, int]:
  """The result of a file and the seed of its solved rows."""
  try:
    value = json.loads(epath.Path(path).read_text())
    return Result.from_json(value['result']), value['made_with']['seed']
  except (OSError, ValueError, TypeError, KeyError) as e:
    raise InputError(
      f'--result={errors.shown(path)} is not the result of a task, such as '
      f'runs/a/evals/codemmlu/step_350/zero_shot.json ({type(e).__name__}: {e})'
    ) from None


if __name__ == '__main__':
  exits.main(main, keeps=False)
