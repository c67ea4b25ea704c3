"""What CodeMMLU's paper reports of a result, and the file of its leaderboard.

by_kind        the score of each subset and of the paper's three kinds
position_bias  the score by position of the right option, where options were
shifted
submission     a line for each question: its task_id and a letter
"""

from collections.abc import Mapping

from moejax.core.errors import InputError
from moejax.evals import prompts, rows
from moejax.evals.benchmarks import SUITES
from moejax.evals.benchmarks.codemmlu import LETTERS
from moejax.evals.benchmarks.codemmlu_prompts import KINDS
from moejax.evals.suite import Result

SUITE = 'codemmlu'
POSITION = 'right option at '
OVERALL = 'overall'

Groups = Mapping[str, Mapping[str, float]]


def by_kind(groups: Groups, metric: str) -> dict[str, float]:
  """Scores of the subsets, of the kinds and of all questions.

  Kinds and the whole are means over questions. The paper's overall column is
  not: it does not follow from its other columns.

  Args:
    groups: the means of each subset, with `items`, their number.
    metric: which of them is shown.
  """
  scores = {name: groups[name][metric] for name in KINDS if name in groups}
  members: dict[str, list[str]] = {}
  for name in scores:
    members.setdefault(KINDS[name], []).append(name)
    members.setdefault(OVERALL, []).append(name)
  for kind in sorted(members, key=lambda kind: kind == OVERALL):
    names = members[kind]
    count = sum(groups[name]['items'] for name in names)
    total = sum(scores[name] * groups[name]['items'] for name in names)
    scores[kind] = total / count
  return scores


def position_bias(groups: Groups, metric: str) -> dict[str, float]:
  """Scores by position of the right option; {} if options were not shifted.

  The last entry, `largest difference`, is 0 for a model that prefers no
  position.
  """
  scores = {
    name.removeprefix(POSITION): means[metric]
    for name, means in sorted(groups.items())
    if name.startswith(POSITION)
  }
  if scores:
    scores['largest difference'] = max(scores.values()) - min(scores.values())
  return scores


def submission(result: Result, data: str, seed: int = 0) -> tuple[str, int]:
  """The leaderboard's file, and how many questions have no answer.

  Letters are those of the strict extraction. A question without one has no
  line.

  Args:
    result: of a benchmark of the suite `codemmlu`, of all rows.
    data: where the rows are, as in `prompts.ask`.
    seed: seed of the choice of solved rows, as the result was made with.

  Raises:
    InputError: the result has no written answers, shifts options, has several
      answers to a question, is of other rows, or of some rows only.
  """
  benchmark = SUITES[SUITE].get(result.benchmark)
  shares = [result.values.get(f'chose_{letter}') for letter in LETTERS]
  if (
    benchmark is None or None in shares or any(map(_is_shifted, result.groups))
  ):
    raise InputError(
      f'{result.benchmark} gives no submission: use zero_shot, few_shot, '
      'cot_zero_shot or cot_few_shot of the suite codemmlu'
    )
  if result.samples > 1:
    raise InputError(
      f'the result has {result.samples} answers to each question, and the '
      'leaderboard takes one: evaluate without --samples'
    )
  asked = prompts.ask(result.benchmark, benchmark, data, seed=seed)
  if asked.digest != result.digest:
    raise InputError(
      f'the result is not of all rows of --data={data}: evaluate '
      f'{result.benchmark} anew, without --limit'
    )
  dataset = benchmark.dataset
  entries = rows.load(result.benchmark, dataset, dataset.split, data)
  lines = []
  for index, (_, row) in enumerate(entries):
    chosen = [
      letter
      for letter, share in zip(LETTERS, shares, strict=True)
      if share and share[index]
    ]
    lines += [f'{row["task_id"]} {letter}\n' for letter in chosen]
  return ''.join(lines), len(entries) - len(lines)


def _is_shifted(group: str) -> bool:
  return group.startswith(POSITION)
