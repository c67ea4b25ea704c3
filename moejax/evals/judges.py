"""Judges of generated text: values of continuations against references.

  exact_match   a continuation, normalised, equals one of its references
  numbers       the number that a continuation states, by two conventions
  values        the values of many continuations; programs run in a sandbox
  pass_at       the unbiased estimator of pass@k

The answers of DROP and of MATH have comparisons of their own, beside their
benchmarks.
"""

import math
import re
import string
from collections.abc import Callable, Sequence

from moejax.core.errors import InputError
from moejax.evals.benchmark import Prompt, Values

# Programs -> whether each of them passed; see moejax/evals/sandbox.py.
Run = Callable[[Sequence[str]], Sequence[bool]]
# pass@k is reported for these k, where there are as many samples.
PASS_AT = (1, 10, 100)

_PUNCTUATION = str.maketrans('', '', string.punctuation)
# The articles of SQuAD's evaluation (arXiv 1606.05250), in lower case.
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def plain(text: str) -> str:
  """Lower case without space at the ends and without ASCII punctuation.

  The normalisation of TriviaQA in the harness, which keeps articles.
  """
  return text.strip().lower().translate(_PUNCTUATION)


def squad(text: str) -> str:
  """Lower case without ASCII punctuation, articles and needless space.

  The normalisation of SQuAD's evaluation, which question answering without
  options mostly follows.
  """
  return ' '.join(_ARTICLES.sub(' ', plain(text)).split())


def exact_match(
  references: Sequence[str], normal: Callable[[str], str] = str.strip
) -> Callable[[str], Values]:
  """A judge: exact_match is 1 if a continuation equals any reference.

  Args:
    references: right answers.
    normal: normalises the continuation and the references.

  Raises:
    InputError: there are no references.
  """
  if not len(references):
    raise InputError('the row has no right answer: complete or remove it')
  right = {normal(reference) for reference in references}

  def judge(text: str) -> Values:
    return {'exact_match': float(normal(text) in right)}

  return judge


def number(text: str) -> str:
  """A number as it is compared: '$1,234.' -> '1234'."""
  return text.replace(',', '').replace('$', '').removesuffix('.')


def strict_number(text: str, before: str = '#### ') -> str | None:
  """The first number that stands after `before`, a regular expression."""
  match = re.search(f'(?:{before})(-?[0-9.,]+)', text)
  return match and number(match[1])


def last_number(text: str) -> str | None:
  """The last number of a text, as the harness extracts it flexibly.

  A run of two or more digits, dots, commas and dollar signs counts as one, so
  the dot that ends a sentence belongs to it and is removed afterwards.
  """
  numbers = re.findall(r'-?[$0-9.,]{2,}|-?[0-9]+', text)
  return number(numbers[-1]) if numbers else None


def numbers(answer: str, before: str = '#### ') -> Callable[[str], Values]:
  """A judge of a number, by two conventions.

  exact_match needs the number after `before`; flexible takes the last number of
  the continuation.
  """
  right = number(answer)

  def judge(text: str) -> Values:
    return {
      'exact_match': float(strict_number(text, before) == right),
      'flexible': float(last_number(text) == right),
    }

  return judge


def pass_at(k: int, samples: int, passed: int) -> float:
  """Estimates the probability that one of k samples passes.

  1 - C(n - c, k) / C(n, k) for c of n samples that passed (arXiv 2107.03374,
  equation 1), which has no bias, unlike 1 - (1 - c / n) ** k.
  """
  if not 1 <= k <= samples:
    raise InputError(
      f'pass@{k} of {samples} samples: k must be from 1 to {samples}'
    )
  return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def values(
  prompts: Sequence[Prompt],
  continuations: Sequence[Sequence[str]],
  run: Run | None = None,
) -> list[Values]:
  """The values of each prompt's samples; all programs run in one batch.

  Args:
    prompts: what was continued.
    continuations: the samples of each prompt, one where decoding is greedy.
    run: runs programs; None: they are not allowed to run.

  Returns:
    The means of the judge's values over samples, or pass@k by `pass_at`.

  Raises:
    InputError: there are programs, and `run` is None.
  """
  programs = [
    prompt.program(text)
    for prompt, texts in zip(prompts, continuations, strict=True)
    if prompt.program
    for text in texts
  ]
  if programs and run is None:
    raise InputError(
      f'{len(programs)} programs that the model wrote must run to be judged: '
      'allow it with --run_generated_code, which runs them in a sandbox '
      'without network, or leave this benchmark out'
    )
  passed = iter(run(programs) if run and programs else ())
  return [
    _passes([next(passed) for _ in texts])
    if prompt.program
    else _means(prompt, texts)
    for prompt, texts in zip(prompts, continuations, strict=True)
  ]


def _passes(passed: Sequence[bool]) -> Values:
  """pass@k for all k that the samples allow."""
  count = len(passed)
  return {
    f'pass@{k}': pass_at(k, count, sum(passed)) for k in PASS_AT if k <= count
  }


def _means(prompt: Prompt, texts: Sequence[str]) -> Values:
  """The mean of each of the judge's values over the samples of a prompt."""
  assert prompt.judge
  judged = [prompt.judge(text) for text in texts]
  return {
    name: sum(values[name] for values in judged) / len(judged)
    for name in judged[0]
  }
