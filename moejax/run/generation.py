"""Generates text with the model of a run, for `cli.generate`."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moejax.convert import companions
from moejax.core import errors
from moejax.data.vocab import Vocab
from moejax.evals import generate, settings
from moejax.evals.sampling import Sampling
from moejax.evals.spoken import Spoken
from moejax.model.build import Model, Weights
from moejax.run import prompt_ids, turns
from moejax.run.prompt_ids import GenerationRequest, Seen
from moejax.run.trained import Trained

# What ends a text: an end token, the number of tokens that was asked for, or
# the length of the model.
END, TOKENS, LENGTH = 'end', 'max_new_tokens', 'max_length'


@dataclasses.dataclass(frozen=True)
class Generation:
  """Prompts as a model is to continue them; made by `prepare`.

  Attributes:
    trained: the model.
    request: what was asked for.
    prompts: token ids of each prompt, without `start`.
    start: ids that every text begins with.
    end_ids: ids that end a text.
    sampling: how the next token is chosen.
    stops: strings that end a text, which are not part of it.
    seen: the prompts with their images; None if no prompt has one.
  """

  trained: Trained
  request: GenerationRequest
  prompts: Sequence[Sequence[int]]
  start: Sequence[int]
  end_ids: Sequence[int]
  sampling: Sampling
  stops: tuple[str, ...] = ()
  seen: Seen | None = None

  def weights(
    self, step: str, note: Callable[[str], None]
  ) -> tuple[Weights, int]:
    """The weights of a checkpoint, and its step; notes step and sampling.

    Args:
      step: which checkpoint, see `restore.weights`.
      note: is called with lines that are not part of the text.

    Raises:
      InputError: the checkpoint does not exist.
    """
    weights, at = self.trained.weights(step, note)
    note(
      f'{self.trained.workdir}, checkpoint of step {at}; '
      f'{self.sampling.in_words}'
    )
    return weights, at

  def pieces(
    self,
    model: Model,
    weights: Weights,
    texts: list[list[int]] | None = None,
    note: Callable[[str], None] = lambda _: None,
  ) -> Iterator[str]:
    """Yields the text that a model writes, while it is written.

    The continuation of one prompt is yielded token by token, after the prompt;
    those of several prompts are yielded when all are done, each under its
    number.

    Args:
      model: the model, or another one that has the same weights.
      weights: its weights.
      texts: a list to which the ids of each text are added, with `start`, the
        prompt and all that was written, end tokens included.
      note: is called at the end with lines on speed, and on texts that were
        cut off by the length of the model.
    """
    texts = [] if texts is None else texts
    texts += [generate.begun(prompt, self.start) for prompt in self.prompts]
    times: list[float] = []
    tokens = self._written(model, weights, texts, times)
    vocab = self.trained.run.data.vocab
    shown = self.prompts if self.seen is None else self.seen.shown
    shown = [[] if self.request.chat else prompt for prompt in shown]
    if len(shown) == 1:
      spoken = spoken_pieces(vocab, shown[0], tokens)
      yield from self._ended(spoken)
    else:
      yield from _numbered(vocab, shown, tokens, self.before_stop)
    for row, text in enumerate(texts):
      if self.ended_by(row, text) == LENGTH:
        which = f'text {row + 1}' if len(texts) > 1 else 'the text'
        note(
          f'{which} ends at model.max_length={model.config.max_length}, the '
          'longest that the model reads'
        )
    note(speed(times, len(texts)))

  def new_tokens(self, row: int, text: Sequence[int]) -> list[int]:
    """The ids that were written behind a prompt, an end token included."""
    return [*text[len(generate.begun(self.prompts[row], self.start)) :]]

  def ended_by(self, row: int, text: Sequence[int]) -> str:
    """What ended a text: END, TOKENS or LENGTH.

    Args:
      row: number of the prompt.
      text: ids of the whole text.
    """
    new = self.new_tokens(row, text)
    if new and new[-1] in self.end_ids:
      return END
    if self.stops:
      said = self.trained.run.data.vocab.decode(new)
      if self.before_stop(said) != said:
        return END
    return TOKENS if len(new) >= self.request.max_new_tokens else LENGTH

  def before_stop(self, text: str) -> str:
    """A text up to the first string that ends it."""
    return ''.join(turns.before_stop([text], self.stops))

  def _ended(self, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of one text up to a string that ends it, and a newline."""
    if not self.stops:
      yield from pieces
      return
    last = ''
    for last in turns.before_stop(pieces, self.stops):
      yield last
    if not last.endswith('\n'):
      yield '\n'

  def _written(
    self,
    model: Model,
    weights: Weights,
    texts: list[list[int]],
    times: list[float],
  ) -> Iterator[tuple[int, int]]:
    """Yields (row, token) without end tokens.

    All tokens are added to `texts`, and when they came, in seconds, to `times`.
    """
    seen = self.seen
    for row, token in generate.stream(
      model,
      weights,
      self.prompts,
      self.sampling,
      max_new_tokens=self.request.max_new_tokens,
      end_ids=self.end_ids,
      seed=self.request.seed or 0,
      start=self.start,
      embedding_BLD=None if seen is None else seen.embeddings(weights),
    ):
      texts[row].append(token)
      times.append(time.monotonic())
      if token not in self.end_ids:
        yield row, token


def prepare(
  trained: Trained, request: GenerationRequest, note: Callable[[str], None]
) -> Generation:
  """Reads the prompts of a request, and checks them, before weights are read.

  Args:
    trained: the model.
    request: the prompts.
    note: is called with lines that are not part of the text.

  Raises:
    InputError: the request does not fit the model.
  """
  sampling = sampling_of(request, trained, note)
  read = prompt_ids.read(trained, request)
  generate.check(trained.model, read.ids, request.max_new_tokens, read.start)
  return Generation(
    trained,
    request,
    read.ids,
    read.start,
    read.ends.ids,
    sampling,
    read.ends.stops,
    read.seen,
  )


def pieces(
  trained: Trained,
  request: GenerationRequest,
  step: str,
  note: Callable[[str], None],
) -> Iterator[str]:
  """Yields the text that a model writes; see `Generation.pieces`.

  Args:
    trained: the model.
    request: the prompts.
    step: which checkpoint, see `restore.weights`.
    note: is called with lines that are not part of the text.

  Raises:
    InputError: the request does not fit the model, or the checkpoint does not
      exist.
  """
  generation = prepare(trained, request, note)
  weights, _ = generation.weights(step, note)
  yield from generation.pieces(trained.model, weights, note=note)


def as_json(
  trained: Trained,
  request: GenerationRequest,
  step: str,
  note: Callable[[str], None],
) -> Iterator[str]:
  """Yields the texts of a request as JSON; arguments and errors as of `pieces`.

  It holds `workdir`, `step`, and `texts`: of each prompt the `prompt`, or the
  `prompt_ids` of a prompt of ids; the continuation as `text` and as `ids`; and
  what ended it, `ended_by`.
  """
  generation = prepare(trained, request, note)
  weights, at = generation.weights(step, note)
  texts: list[list[int]] = []
  for _ in generation.pieces(trained.model, weights, texts, note):
    pass
  vocab, key = trained.run.data.vocab, 'prompt'
  prompts: Sequence[Any] = request.prompt
  if request.prompt_ids:
    key, prompts = 'prompt_ids', request.prompt_ids
  rows: list[dict[str, Any]] = []
  for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
    ids = generation.new_tokens(row, text)
    kept = [i for i in ids if i not in generation.end_ids]
    rows.append({
      key: prompt,
      'text': generation.before_stop(vocab.decode(kept)),
      'ids': ids,
      'ended_by': generation.ended_by(row, text),
    })
  found = {'workdir': trained.workdir, 'step': at, 'texts': rows}
  yield json.dumps(found, indent=2) + '\n'


def speed(times: Sequence[float], num_texts: int) -> str:
  """A line on how many tokens were written, and how fast.

  The first token of each text is left out of the rate, because it waits for
  the prompt to be read and for programs to be compiled.

  Args:
    times: when each token came, in seconds.
    num_texts: how many texts were written at once.

  Example, times [5, 6, 6.5] of one text:
    3 tokens, 1.3 tokens/s after the first
  """
  line = f'{len(times)} token{"s" * (len(times) != 1)}'
  later = len(times) - num_texts
  if later < 1 or times[-1] <= times[0]:
    return line
  rate = later / (times[-1] - times[0])
  first = 'the first' if num_texts == 1 else 'the first of each text'
  return f'{line}, {rate:,.1f} tokens/s after {first}'


def sampling_of(
  request: Any, trained: Trained, note: Callable[[str], None]
) -> Sampling:
  """The model's default sampling with the changes of a request.

  Args:
    request: has `temperature`, `top_p`, `top_k` and `seed`, as those of
      GenerationRequest.
    trained: the model.
    note: is called with a line on settings of the model that do nothing.

  Raises:
    InputError: a value that does nothing, or is out of bounds.
  """
  names = 'temperature', 'top_p', 'top_k'
  wanted = {n: x for n in names if (x := getattr(request, n)) is not None}
  usual = settings.usual(trained.hf_folder)
  sampling = dataclasses.replace(usual, **wanted)
  idle = [
    n for n in ('top_p', 'top_k', 'seed') if getattr(request, n) is not None
  ]
  if sampling.temperature == 0 and idle:
    raise errors.InputError(
      f'--{idle[0]} does nothing where the most probable token is taken '
      '(temperature 0); leave it out, or give --temperature=0.7, say'
    )
  if ignored := settings.ignored(trained.hf_folder):
    listed = ', '.join(f'{key}={value}' for key, value in ignored.items())
    note(f"not supported, of the model's {companions.GENERATION}: {listed}")
  return sampling


def spoken_pieces(
  vocab: Vocab, prompt: Sequence[int], tokens: Iterator[tuple[int, int]]
) -> Iterator[str]:
  """Yields a prompt's text, its continuation token by token, and a newline.

  Args:
    vocab: the vocabulary.
    prompt: ids of the prompt; none to show the continuation alone.
    tokens: (row, token) of `evals.generate.stream` for this one prompt.
  """
  spoken = Spoken(vocab)
  yield spoken.add(*prompt)
  for _, token in tokens:
    yield spoken.add(token)
  yield spoken.rest() + '\n'


def _numbered(
  vocab: Vocab,
  prompts: Sequence[Sequence[int]],
  tokens: Iterator[tuple[int, int]],
  ended: Callable[[str], str],
) -> Iterator[str]:
  """Yields each prompt with its continuation, under its number."""
  texts = [list(prompt) for prompt in prompts]
  for row, token in tokens:
    texts[row].append(token)
  for number, ids in enumerate(texts, 1):
    yield f'--- {number}\n{ended(vocab.decode(ids))}\n'
