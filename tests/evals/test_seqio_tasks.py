"""Benchmarks inside SeqIO: its evaluator gives the means that moejax gives.

What needs SeqIO itself imports TensorFlow for ten seconds, and is marked soak.
"""

import json

import pytest

from moejax.core.errors import InputError
from moejax.data import seqio_bridge, vocab
from moejax.evals import prompts, seqio_tasks, suite
from moejax.evals.benchmark import Benchmark, Dataset, Likelihood, Prompt
from moejax.evals.benchmarks import BENCHMARKS, SUITES
from moejax.evals.judges import exact_match

BYTES = vocab.Bytes()

PIQA = [
  {'goal': 'To dry a wet book,', 'sol1': 'boil it.', 'sol2': 'air it.'}
  | {'label': 1},
  {'goal': 'Open a jar', 'sol1': 'turn the lid.', 'sol2': 'sing.'}
  | {'label': 0},
  {'goal': 'Wash', 'sol1': 'use soap.', 'sol2': 'use ink.'} | {'label': 0},
]
LAMBADA = [
  {'text': 'The dog barked until the cat saw the dog'},
  {'text': 'He asked for tea, and she brought tea'},
]
SUMS = Benchmark(
  Dataset('', '', 'test', {'sum': str, 'answer': str}),
  lambda row: Prompt(
    f'{row["sum"]} =', exact_match([row['answer']]), stops=('\n',)
  ),
  'exact_match',
)


def asked(tmp_path, name, rows, benchmark):
  folder = tmp_path / name
  folder.mkdir()
  path = folder / f'{benchmark.dataset.split}.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return prompts.ask(name, benchmark, str(tmp_path))


def log_prob(context, continuation):
  """A made-up score that depends on both texts."""
  return -float(sum(context.encode()) % 7 + sum(continuation.encode()) % 97)


class Engine:
  """Scores by `log_prob`, per byte as the tasks' vocabulary counts."""

  def likelihoods(self, pairs):
    return [
      Likelihood(log_prob(*pair), False, len(pair[1].encode()))
      for pair in pairs
    ]


def evaluated(task, score_fn=None, predict_fn=None):
  """The metrics that SeqIO's evaluator computes."""
  seqio, _ = seqio_bridge.load('the tests')
  evaluator = seqio.Evaluator(
    task.name,
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    eval_split='test',
    sequence_length={'inputs': 256, 'targets': 64},
  )
  computed, *_ = evaluator.evaluate(
    compute_metrics=True,
    step=0,
    predict_fn=predict_fn or (lambda dataset: pytest.fail('not predicted')),
    score_fn=score_fn or (lambda dataset: pytest.fail('not scored')),
  )
  metrics = computed.result()[task.name]
  evaluator.close()
  return metrics


def texts(dataset):
  """(number, inputs, targets) of a dataset of SeqIO, as texts."""
  for number, example in dataset.as_numpy_iterator():
    yield (
      number,
      BYTES.decode(example['encoder_input_tokens']),
      BYTES.decode(example['decoder_target_tokens']),
    )


def backwards(answers):
  """Answers in another order, which SeqIO allows."""
  return list(reversed(list(answers)))


def by_log_prob(dataset):
  return backwards(
    (number, log_prob(inputs, targets))
    for number, inputs, targets in texts(dataset)
  )


@pytest.fixture
def registered():
  """Registers a task and forgets it after the test."""
  names = []

  def register(*args):
    task = seqio_tasks.register(*args)
    names.append(task.name)
    return task

  yield register
  seqio, _ = seqio_bridge.load('the tests')
  for name in names:
    seqio.TaskRegistry.remove(name)


@pytest.mark.soak
def test_scores_of_choices_give_our_means(tmp_path, registered):
  benchmark = SUITES['deepseekmoe']['piqa']
  items = asked(tmp_path, 'piqa', PIQA, benchmark)
  task = registered(items, BYTES)
  means = suite.score(items, Engine()).means
  assert evaluated(task, score_fn=by_log_prob) == pytest.approx(means)
  assert 0 < means[benchmark.metric] < 1


@pytest.mark.soak
def test_examples_are_pairs_of_texts(tmp_path):
  items = asked(tmp_path, 'piqa', PIQA, SUITES['deepseekmoe']['piqa'])
  dataset = seqio_tasks.task(items, BYTES).get_dataset(
    {'inputs': 256, 'targets': 64}, split='test', shuffle=False
  )
  shown = [
    (BYTES.decode(row['inputs']), BYTES.decode(row['targets']))
    for row in dataset.as_numpy_iterator()
  ]
  assert shown == [
    ('To dry a wet book,', ' boil it.'),
    ('To dry a wet book,', ' air it.'),
    ('Open a jar', ' turn the lid.'),
    ('Open a jar', ' sing.'),
    ('Wash', ' use soap.'),
    ('Wash', ' use ink.'),
  ]


@pytest.mark.soak
def test_clozes_have_scores_and_predictions(tmp_path, registered):
  items = asked(
    tmp_path, 'lambada_openai', LAMBADA, BENCHMARKS['lambada_openai']
  )
  task = registered(items, BYTES)
  predict = lambda dataset: [
    (number, BYTES.encode(' dog, and'))
    for number, _, _ in backwards(texts(dataset))
  ]
  metrics = evaluated(task, by_log_prob, predict)
  means = suite.score(items, Engine()).means
  assert metrics['acc'] == 0.5
  assert metrics['nll'] == pytest.approx(means['nll'])
  assert metrics['perplexity'] == pytest.approx(means['perplexity'])


@pytest.mark.soak
def test_predictions_are_cut_and_judged(tmp_path, registered):
  rows = [{'sum': '1 + 1', 'answer': '2'}, {'sum': '1 + 2', 'answer': '3'}]
  task = registered(asked(tmp_path, 'sums', rows, SUMS), BYTES)
  predict = lambda dataset: [
    (number, BYTES.encode(' 3\n1 + 3 = 4')) for number, _, _ in texts(dataset)
  ]
  assert evaluated(task, predict_fn=predict) == {'exact_match': 0.5}


def targets(items):
  """What the postprocessor makes of the targets of a task."""
  return [
    seqio_tasks.postprocess(
      '', {**row, 'targets': BYTES.encode(row['targets'])}, is_target=True
    )
    for row in seqio_tasks.examples(items)
  ]


@pytest.mark.parametrize(
  'benchmark', [BENCHMARKS['piqa'], SUITES['deepseekmoe']['piqa']]
)
def test_the_metric_of_scores_gives_our_means(tmp_path, benchmark):
  items = asked(tmp_path, 'piqa', PIQA, benchmark)
  (metric,) = seqio_tasks.metric_functions(items)
  scores = [
    log_prob(row['inputs'], row['targets'])
    for row in seqio_tasks.examples(items)
  ]
  means = suite.score(items, Engine()).means
  assert metric(targets(items), scores) == means
  assert 0 < means[benchmark.metric] < 1
  # In another order too.
  assert metric(targets(items)[::-1], scores[::-1]) == means


def test_the_metric_of_predictions_judges_them(tmp_path):
  rows = [{'sum': '1 + 1', 'answer': '2'}, {'sum': '1 + 2', 'answer': '3'}]
  items = asked(tmp_path, 'sums', rows, SUMS)
  (metric,) = seqio_tasks.metric_functions(items)
  texts = [' 3\nSo', ' 3']
  assert metric(targets(items), texts) == {'exact_match': 0.5}
  assert metric(targets(items)[::-1], [' 3', ' 2\nSo']) == {'exact_match': 1.0}


def test_a_cloze_has_scores_and_predictions(tmp_path):
  items = asked(
    tmp_path, 'lambada_openai', LAMBADA, BENCHMARKS['lambada_openai']
  )
  of_scores, of_predictions = seqio_tasks.metric_functions(items)
  assert of_predictions(targets(items), [' dog, and', ' dog']) == {'acc': 0.5}
  assert of_scores(targets(items), [-1.0, -3.0]) == pytest.approx({
    'nll': 2.0,
    'perplexity': 7.38905609893065,
  })


def test_missing_scores_have_one_clear_line(tmp_path):
  items = asked(tmp_path, 'piqa', PIQA, BENCHMARKS['piqa'])
  (metric,) = seqio_tasks.metric_functions(items)
  with pytest.raises(InputError, match='answered 1 of 6') as error:
    metric([(0, 3)], [-1.0])
  assert '\n' not in str(error.value)
