"""Values of items: what an engine's answers are worth.

  item     values
  Choice   acc, acc_norm, acc_bytes, acc_tokens and acc_mutual
  Cloze    acc, log_prob, tokens and bytes
  Prompt   what its judge says

Each accuracy of a `Choice` says which number of an option was the highest:

  acc         log-probability
  acc_norm    log-probability per character (Unicode code point)
  acc_bytes   log-probability per byte of UTF-8
  acc_tokens  log-probability per token: the lowest perplexity, as DeepSeekMoE
              (arXiv 2401.06066) chooses options
  acc_mutual  log-probability less that of the option without the question;
              only with `Choice.unconditional`

Of equal options the first is chosen. The first four but `acc_tokens` are those
of lm-evaluation-harness, which names the last one `acc_mutual_info`.

The perplexity of a set of clozes follows from the means of their values: per
target, as the harness reports LAMBADA, it is exp(-mean log_prob); per token,
exp(-mean log_prob / mean tokens).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from moejax.core import errors
from moejax.evals.benchmark import (
  Choice,
  Cloze,
  Engine,
  Item,
  Likelihood,
  Prompt,
  Values,
)


@dataclasses.dataclass(frozen=True)
class Answer:
  """The answer to an item.

  Attributes:
    values: {metric: value}.
    output: the log-probability of each option of a `Choice`, that of the
      target of a `Cloze`, or the generated text of a `Prompt`.
  """

  values: Values
  output: list[float] | float | str


def answers(engine: Engine, items: Sequence[Item]) -> list[Answer]:
  """The answers of an engine to items, in their order.

  Raises:
    InputError: an item cannot be asked, such as a choice with an empty option.
  """
  pairs = [pair for item in items for pair in _pairs(item)]
  likelihoods = iter(engine.likelihoods(pairs) if pairs else [])
  prompts = [item for item in items if isinstance(item, Prompt)]
  texts = iter(engine.generate(prompts) if prompts else [])
  done = []
  for item in items:
    if isinstance(item, Prompt):
      text = next(texts)
      done.append(Answer(item.judge(text), text))
      continue
    own = [next(likelihoods) for _ in _pairs(item)]
    if isinstance(item, Cloze):
      done.append(Answer(cloze_values(item, own[0]), own[0].log_prob))
    else:
      done.append(
        Answer(
          choice_values(item, own),
          [x.log_prob for x in own[: len(item.options)]],
        )
      )
  return done


def _pairs(item: Item) -> list[tuple[str, str]]:
  """The (context, continuation) pairs that an item asks for."""
  match item:
    case Cloze():
      return [(item.context, item.target)]
    case Choice():
      _check(item)
      pairs = [*zip(item.contexts, item.options, strict=True)]
      if item.unconditional is not None:
        pairs += [(item.unconditional, option) for option in item.options]
      return pairs
  return []


def _check(item: Choice) -> None:
  """Raises InputError if a choice is not whole."""
  count = len(item.options)
  shown = f'{item.contexts[0][-40:]!r}' if item.contexts else 'a question'
  if len(item.contexts) != count:
    raise errors.InputError(
      f'{shown} has {len(item.contexts)} contexts but {count} options; give '
      'one for each'
    )
  if not 0 <= item.answer < count:
    raise errors.InputError(
      f'{shown}: the answer {item.answer} is none of its {count} options, '
      'which are counted from 0'
    )
  if not all(_texts(item)):
    raise errors.InputError(
      f'{shown}: option {_texts(item).index("")} is empty; give it text'
    )


def _texts(item: Choice) -> list[str]:
  """The options without delimiter."""
  return list(item.texts) or [option.strip() for option in item.options]


def choice_values(item: Choice, likelihoods: Sequence[Likelihood]) -> Values:
  """The values of a choice.

  Args:
    item: the choice.
    likelihoods: those of its options, and then, with `unconditional`, those of
      its options without the question.
  """
  count = len(item.options)
  log_prob_K = np.array([x.log_prob for x in likelihoods[:count]])
  texts = _texts(item)
  scores = {
    'acc': log_prob_K,
    'acc_norm': log_prob_K / [len(text) for text in texts],
    'acc_bytes': log_prob_K / [len(text.encode()) for text in texts],
    'acc_tokens': log_prob_K / [x.tokens for x in likelihoods[:count]],
  }
  if item.unconditional is not None:
    alone_K = np.array([x.log_prob for x in likelihoods[count:]])
    scores['acc_mutual'] = log_prob_K - alone_K
  # argmax takes the first of equal scores.
  return {
    name: float(np.argmax(score_K) == item.answer)
    for name, score_K in scores.items()
  }


def cloze_values(item: Cloze, likelihood: Likelihood) -> Values:
  """The values of a cloze; `acc` is 1 if greedy decoding writes the target."""
  return {
    'acc': float(likelihood.greedy),
    'log_prob': likelihood.log_prob,
    'tokens': float(likelihood.tokens),
    'bytes': float(len(item.target.encode())),
  }
