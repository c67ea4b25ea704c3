"""A conversation with the model of a run, for `cli.chat`."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from moejax.core import errors
from moejax.core.console import Console
from moejax.data.chat.messages import ProblemError
from moejax.data.chat.tokens import ChatVocab
from moejax.evals import generate, stopped
from moejax.evals.picture import Picture, of_file
from moejax.evals.sampling import Sampling
from moejax.evals.spoken import Spoken
from moejax.model.build import Weights
from moejax.run import playground, routing_view, sights, text_routing, turns
from moejax.run.trained import Trained

RESET, SHOW, SEE = '/reset', '/show', '/image'


@dataclasses.dataclass(frozen=True)
class Settings:
  """How answers are written.

  Attributes:
    sampling: how the next token is chosen.
    max_new_tokens: most tokens of an answer.
    stops: strings that end an answer, which are not part of it.
    system: text of a system message at the beginning; '' for none.
    seed: seed of sampling; each answer has a seed of its own.
  """

  sampling: Sampling
  max_new_tokens: int = 512
  stops: tuple[str, ...] = ()
  system: str = ''
  seed: int = 0


class Talk:
  """A conversation that grows by a question and an answer at a time.

  Args:
    trained: the model.
    weights: its weights.
    step: of their checkpoint.
    vocab: the vocabulary with the chat template.
    settings: how answers are written.

  Attributes:
    messages: the conversation so far.
    pictures: its images, in the order of the `<image>` in the messages.
  """

  def __init__(
    self,
    trained: Trained,
    weights: Weights,
    step: int,
    vocab: ChatVocab,
    settings: Settings,
  ):
    stopped.check(settings.stops, settings.max_new_tokens)
    self._trained, self._weights, self._step = trained, weights, step
    self._vocab, self._settings = vocab, settings
    self._sight = sights.of(trained)
    self.messages: list[dict[str, Any]] = []
    self.pictures: list[Picture] = []
    self._new: list[Picture] = []  # of the next question
    self._read: list[int] = []  # ids of the last prompt
    self._written: list[int] = []  # ids of the last answer
    self.reset()

  def reset(self) -> None:
    """Begins anew."""
    system = self._settings.system
    self.messages = [{'role': 'system', 'content': system}] if system else []
    self._read, self._written = [], []
    self.pictures, self._new = [], []

  @property
  def help(self) -> str:
    """A line on the commands."""
    see = '' if self._sight is None else f'{SEE} FILE shows an image; '
    return f'{see}{RESET} begins anew; {SHOW} shows experts; Ctrl-D ends'

  def see(self, path: str) -> None:
    """Takes an image for the next question.

    It stands where the question has `<image>`, or before it.

    Raises:
      InputError: the model reads text alone, or the image cannot be read.
    """
    if self._sight is None:
      raise errors.InputError(
        f'{SEE} {path}: the model of {self._trained.workdir} reads text alone '
        '(model.vision.name=none)'
      )
    if not path:
      raise errors.InputError(f'{SEE} needs the path of an image')
    picture = of_file(path, f'{SEE} {path}')
    self._sight.image(picture)
    self._new.append(picture)

  @functools.cached_property
  def _ends(self) -> turns.Ends:
    return turns.ends_of(self._trained, self._vocab, self._settings.stops)

  def answer(self, question: str) -> Iterator[str]:
    """Yields the answer to a question piece by piece.

    An answer whose iterator is closed early, as after Ctrl-C, is kept as far as
    it was yielded.

    Raises:
      InputError: the conversation has become too long for the model, or the
        template does not take it. It is then as it was before.
    """
    if self._sight is not None:
      question = self._sight.marked(question, len(self._new))
    asked = [*self.messages, {'role': 'user', 'content': question}]
    prompt, pictures = self._prompt(asked), [*self.pictures, *self._new]
    ends, embedding_BLD = self._ends, None
    if self._sight is not None:
      if pictures:
        x_LD = self._sight.read(self._weights, prompt, pictures)
        embedding_BLD = x_LD[None]
      prompt = self._sight.text(prompt)
    tokens = generate.stream(
      self._trained.model,
      self._weights,
      [prompt],
      self._settings.sampling,
      max_new_tokens=self._settings.max_new_tokens,
      end_ids=ends.ids,
      seed=self._settings.seed + len(asked),
      start=(),
      embedding_BLD=embedding_BLD,
    )
    self.messages, self.pictures, self._new = asked, pictures, []
    self._read, self._written = prompt, []
    said: list[str] = []
    try:
      for piece in turns.before_stop(
        self._pieces(tokens, ends.ids), ends.stops
      ):
        said.append(piece)
        yield piece
    finally:
      content = ''.join(said).strip()
      self.messages.append({'role': 'assistant', 'content': content})

  def show(self, console: Console, shown: str) -> None:
    """Prints the experts of the tokens of the last answer.

    Args:
      console: where to.
      shown: layers and rank, as a value of `cli.generate --show-routing`.

    Raises:
      InputError: there is no answer, or the model has no such layers.
    """
    if self.pictures:
      raise errors.InputError(
        f'{SHOW} shows the experts of texts alone, and this conversation has '
        f'images: begin anew with {RESET}'
      )
    model = self._trained.model
    which = playground.parse_shown(shown, model, self._trained.workdir)
    if not self._written:
      raise errors.InputError('there is no answer yet whose experts to show')
    ids = [*self._read, *self._written][: model.config.max_length]
    whole = text_routing.read(model, self._weights, ids, self._step)
    begin = min(len(self._read), len(ids) - 1)
    reading = text_routing.behind(whole, begin)
    routing_view.show(
      console, self._vocab.vocab, ids[begin:], {'answer': reading}, which
    )

  def _prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
    try:
      if self._sight is None:
        prompt = self._vocab.prompt(messages)
      else:
        text = self._sight.rendered(self._vocab.template, messages)
        prompt = self._sight.ids(text, self._vocab.start)
    except ProblemError as e:
      raise errors.InputError(str(e)) from None
    longest = self._trained.model.config.max_length
    if len(prompt) > longest:
      raise errors.InputError(
        f'the conversation has {len(prompt):,} tokens, and the model reads '
        f'{longest:,} (model.max_length): begin anew with {RESET}'
      )
    return prompt

  def _pieces(
    self, tokens: Iterable[tuple[int, int]], ends: Sequence[int]
  ) -> Iterator[str]:
    """The text of new tokens, as far as it is whole."""
    spoken = Spoken(self._vocab.vocab)
    for _, token in tokens:
      if token in ends:
        break
      self._written.append(token)
      yield spoken.add(token)
    yield spoken.rest()


def converse(
  talk: Talk,
  read: Callable[[], str],
  write: Callable[[str], None],
  note: Callable[[str], None],
) -> None:
  """Reads lines and answers them, until there are no more.

  Ctrl-C ends an answer; at the prompt it ends the conversation.

  Args:
    talk: the conversation.
    read: the next line; raises EOFError after the last one.
    write: writes a piece of an answer.
    note: is called with lines that are no answer.
  """
  while True:
    try:
      line = read().strip()
    except (EOFError, KeyboardInterrupt):
      return
    try:
      _turn(talk, line, write, note)
    except errors.InputError as e:
      note(f'error: {e}')


def _turn(
  talk: Talk,
  line: str,
  write: Callable[[str], None],
  note: Callable[[str], None],
) -> None:
  """What one line asks for."""
  command, _, rest = line.partition(' ')
  if not line:
    return
  try:
    line.encode()
  except UnicodeEncodeError:
    raise errors.InputError(
      f'{line[:40]!r} is not UTF-8: write the line in UTF-8'
    ) from None
  if command == RESET:
    talk.reset()
    note('a new conversation')
  elif command == SEE:
    talk.see(rest.strip())
    note('the next question has this image')
  elif command == SHOW:
    talk.show(Console(highlight=False), rest.strip() or playground.SOME)
  elif command.startswith('/'):
    raise errors.InputError(f'{command} is no command: {talk.help}')
  else:
    pieces = talk.answer(line)
    try:
      for piece in pieces:
        write(piece)
    except KeyboardInterrupt:
      pieces.close()  # type: ignore[attr-defined]
      note(' (interrupted)')
    write('\n')
