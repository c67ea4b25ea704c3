"""Benchmarks as SeqIO tasks, for programs that evaluate with SeqIO.

  asked = prompts.ask('piqa', BENCHMARKS['piqa'], 'hub')
  task = seqio_tasks.register(asked, vocab)
  seqio.Evaluator(task.name, ...)

Each pair of texts that an item needs the likelihood of is an example: the
context is `inputs`, the continuation `targets`. A text to generate is an
example whose `targets` are empty. The metric function takes scores (SeqIO's
`score_fn`) or predictions (`predict_fn`) and gives the same means as
moejax/evals/suite.py, with two differences that come with SeqIO:

* Inputs and targets are encoded apart. moejax's engine encodes both as one
  text, in which a token may reach over the border.
* Scores do not say which tokens were the most probable. The `acc` of a `Cloze`
  is therefore computed from predictions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.data import seqio_bridge
from moejax.data.vocab import Vocab
from moejax.evals import items as items_lib
from moejax.evals import judges, suite
from moejax.evals.benchmark import Choice, Cloze, Likelihood, Prompt
from moejax.evals.prompts import Asked

SPLIT = 'test'
PREFIX = 'moejax_'


def register(asked: Asked, vocab: Vocab, run: judges.Run | None = None) -> Any:
  """Adds a benchmark to SeqIO's registry as the task `moejax_NAME`.

  Args:
    asked: the items of a benchmark, as `prompts.ask` makes them.
    vocab: the vocabulary that encodes them.
    run: runs generated programs; None refuses to.

  Returns:
    The seqio.Task.

  Raises:
    InputError: SeqIO is not installed.
    ValueError: the name is registered already.
  """
  seqio, _ = seqio_bridge.load('a benchmark as a SeqIO task')
  made = task(asked, vocab, run)
  seqio.TaskRegistry.add_provider(made.name, made)
  return made


def task(asked: Asked, vocab: Vocab, run: judges.Run | None = None) -> Any:
  """A benchmark as a seqio.Task that is in no registry; as `register`."""
  seqio, tf = seqio_bridge.load('a benchmark as a SeqIO task')
  rows = examples(asked)

  def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
    del split, shuffle_files, seed
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return tf.data.Dataset.from_tensor_slices(columns)

  feature = seqio.Feature(
    vocab.to_seqio(), add_eos=False, required=False, dtype=tf.int32
  )
  return seqio.Task(
    PREFIX + asked.name,
    source=seqio.FunctionDataSource(
      dataset, splits=(SPLIT,), num_input_examples={SPLIT: len(rows)}
    ),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={'inputs': feature, 'targets': feature},
    postprocess_fn=postprocess,
    metric_fns=metric_functions(asked, run),
    shuffle_buffer_size=None,
  )


def examples(asked: Asked) -> list[dict[str, Any]]:
  """Rows with `inputs` and `targets`, and `example`, the number of the row."""
  texts: list[tuple[str, str]] = []
  for item in asked.items:
    if isinstance(item, Prompt):
      texts.append((item.text, ''))
    else:
      texts += items_lib.pairs(item)
  return [
    {'inputs': inputs, 'targets': targets, 'example': number}
    for number, (inputs, targets) in enumerate(texts)
  ]


def postprocess(
  text: str, example: Mapping[str, Any], is_target: bool = False
) -> Any:
  """The number and the token count of a target; a prediction as it is."""
  if not is_target:
    return text
  return int(example['example']), len(example['targets'])


@dataclasses.dataclass(frozen=True)
class _Recorded:
  """An engine whose answers were computed by SeqIO."""

  answers: Sequence[Likelihood] = ()
  texts: Sequence[str] = ()

  def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    return _whole(self.answers, len(pairs))

  def generate(
    self, prompts: Sequence[Prompt], sampling: Any = None, seed: int = 0
  ) -> list[str]:
    del sampling, seed
    texts = _whole(self.texts, len(prompts))
    return [_cut(t, p.stops) for t, p in zip(texts, prompts, strict=True)]


def _whole(answers: Sequence[Any], count: int) -> list[Any]:
  if len(answers) != count:
    raise InputError(
      f'SeqIO answered {len(answers)} of {count} examples; an item needs the '
      'scores of all its options: evaluate without num_eval_examples'
    )
  return list(answers)


def _cut(text: str, stops: Sequence[str]) -> str:
  """The text up to the first stop string."""
  return text[: min((text.find(s) for s in stops if s in text), default=None)]


def metric_functions(
  asked: Asked, run: judges.Run | None = None
) -> list[Callable[..., dict[str, float]]]:
  """Metric functions of SeqIO: (targets, scores) or (targets, predictions).

  A benchmark of choices has one of scores, one of texts to generate one of
  predictions, and one of clozes both.
  """

  def from_scores(
    targets: Sequence[tuple[int, int]], scores: Sequence[float]
  ) -> dict[str, float]:
    paired = sorted(zip(targets, scores, strict=True))
    answers = [
      Likelihood(float(score), False, tokens) for (_, tokens), score in paired
    ]
    means = suite.score(without_greedy, _Recorded(answers)).means
    return {name: means[name] for name in means if name not in left_out}

  def from_predictions(
    targets: Sequence[tuple[int, int]], predictions: Sequence[str]
  ) -> dict[str, float]:
    numbered = sorted(
      zip((number for number, _ in targets), predictions, strict=True)
    )
    texts = [text for _, text in numbered]
    if not clozes:
      return suite.score(asked, _Recorded(texts=texts), run).means
    hits = [
      float(text.lstrip().startswith(item.target.strip()))
      for text, item in zip(_whole(texts, len(clozes)), clozes, strict=True)
    ]
    return {'acc': sum(hits) / len(hits)}

  clozes = [item for item in asked.items if isinstance(item, Cloze)]
  left_out = {'acc'} if clozes else set()
  without_greedy = asked
  if clozes:
    benchmark = dataclasses.replace(asked.benchmark, metric='nll')
    without_greedy = dataclasses.replace(asked, benchmark=benchmark)
  kinds = {type(item) for item in asked.items}
  functions: list[Callable[..., dict[str, float]]] = []
  if kinds & {Choice, Cloze}:
    functions.append(from_scores)
  if kinds & {Cloze, Prompt}:
    functions.append(from_predictions)
  return functions
