"""Conversations as token ids, the prompts of which have no loss."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from moejax.data.chat import answers, templates
from moejax.data.chat import messages as messages_lib
from moejax.data.chat.config import Chat
from moejax.data.chat.messages import Conversation, ProblemError


class Encoded(NamedTuple):
  """A conversation as token ids.

  Attributes:
    ids_T: int32; ids without a loss are complements, see `features.Rows`.
    num_bytes: UTF-8 size of its text.
    left_out: answers at its end that are not in it.
  """

  ids_T: np.ndarray
  num_bytes: int
  left_out: int


@dataclasses.dataclass(frozen=True)
class ChatVocab:
  """A vocabulary that encodes conversations.

  Where all conversations begin with one and the same id, as most templates
  have it, the model reads this id first (`first_id`) and does not predict it.

  Attributes:
    vocab: the tokenizer.
    chat: template and loss.
    key: key or flag that names the template, for errors.
    length: tokens of a row; longer conversations lose their last answers.
    kept: a template in place of the one that `chat` names.
  """

  vocab: Any
  chat: Chat
  key: str = 'data.chat.template'
  length: int = 0
  kept: templates.Template | None = None

  masked = True

  def __getattr__(self, name: str) -> Any:
    # What a vocabulary has besides the methods below.
    if name.startswith('__') or name == 'vocab':  # while unpickling
      raise AttributeError(name)
    return getattr(self.vocab, name)

  @functools.cached_property
  def template(self) -> templates.Template:
    """The chat template."""
    if self.kept is not None:
      return self.kept
    return templates.find(self.chat.template, self.vocab, self.key)

  @functools.cached_property
  def first_id(self) -> int:
    """The id that the model reads at the beginning of a conversation."""
    firsts = {*self._first_ids()}
    return firsts.pop() if len(firsts) == 1 else self.vocab.first_id

  @property
  def start(self) -> tuple[int, ...]:
    """Ids that a prompt has in front of the text of its template."""
    return () if len({*self._first_ids()}) == 1 else (self.vocab.first_id,)

  def fingerprint(self) -> str:
    digest = hashlib.sha256(self.template.text.encode()).hexdigest()
    tokens = sorted(self.template.tokens.items())
    return f'{self.vocab.fingerprint()}:chat={digest}:{tokens}:{self.chat.loss}'

  @functools.cached_property
  def turn_end(self) -> str:
    """The text behind an answer with which its turn ends; '' for none.

    Example: '<|im_end|>' of ChatML.
    """
    said = 'Hello'
    turns = [
      {'role': 'user', 'content': 'Hi'},
      {'role': messages_lib.ANSWERING, 'content': said},
    ]
    try:
      text, spans = answers.find(
        self.template, Conversation('', tuple(turns)), 'last_answer'
      )
    except ProblemError:
      return ''
    start, end = spans[-1] or (0, 0)
    return text[start:end].partition(said)[2].strip()

  def prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The ids of a chat whose next message is the model's.

    Raises:
      ProblemError: the template does not take the messages.
    """
    if 'user' in self.template.unwritten:
      raise ProblemError(
        f'{self.template.place} leaves out what users say (it may read lists '
        f'of parts alone); name another one ({self.key})'
      )
    text = self.template.render(messages, add_generation_prompt=True).text
    ((ids, _),) = self.vocab.encode_spans([text], [[]])
    return [*self.start, *ids]

  def encode_conversations(
    self, conversations: Sequence[Conversation]
  ) -> Iterator[Encoded | ProblemError]:
    """Each conversation as ids, or what is wrong with it.

    A conversation of more than `length` tokens ends with the last answer that
    is whole. Nothing behind the last answer is encoded.
    """
    marked: list[answers.Marked | ProblemError] = []
    for conversation in conversations:
      try:
        marked.append(answers.find(self.template, conversation, self.chat.loss))
      except ProblemError as e:
        marked.append(e)
    good = [m for m in marked if isinstance(m, answers.Marked)]
    encoded = iter(
      self.vocab.encode_spans(
        [m.text for m in good],
        [[span for span in m.spans if span] for m in good],
      )
    )
    for item in marked:
      if isinstance(item, ProblemError):
        yield item
      else:
        yield self.fitted(item, *next(encoded))

  def fitted(
    self,
    marked: answers.Marked,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
  ) -> Encoded | ProblemError:
    """The ids up to the last answer that fits, without a loss on prompts.

    Args:
      marked: the text of a conversation.
      ids: of the whole text.
      spans: (start, end) of its answers among the ids.
    """
    ids_T = np.array(ids, np.int32)
    # The id that is read first is no target.
    skip = int(len(ids_T) > 0 and ids_T[0] == self.first_id)
    fitting = [span for span in spans if span[1] - skip <= self.length]
    if not fitting:
      return ProblemError(
        f'its first answer ends at token {spans[0][1] - skip:,}, and a row has '
        f'{self.length:,} (data.sequence_length)'
      )
    stored_T = ~ids_T
    for start, stop in answers.LOSSES[self.chat.loss](fitting):
      stored_T[start:stop] = ids_T[start:stop]
    stored_T = stored_T[skip : fitting[-1][1]]
    places = [span for span in marked.spans if span]
    end = places[len(fitting) - 1][1]
    return Encoded(
      stored_T, len(marked.text[:end].encode()), len(spans) - len(fitting)
    )

  def _first_ids(self) -> Iterator[int]:
    """The first ids of conversations with other words, or a system message."""
    ask = lambda role, text: {'role': role, 'content': text}
    for asked in (
      [ask('user', 'Hello')],
      [ask('user', '3')],
      [ask('system', 'Be brief.'), ask('user', 'Hello')],
    ):
      try:
        text = self.template.render(asked, add_generation_prompt=True).text
      except ProblemError:  # many templates have no system message
        continue
      ((ids, _),) = self.vocab.encode_spans([text], [[]])
      yield from ids[:1]
