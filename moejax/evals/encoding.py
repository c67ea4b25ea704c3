"""Encoder: texts to the token ids that a model reads and predicts.

The rules are those of lm-evaluation-harness 0.4.13 (its `TemplateLM`):

  * White space at the end of a context belongs to the continuation.
  * Context and continuation are encoded as one text. The continuation is what
    follows as many ids as the context alone has, so a tokenizer may merge
    characters across the border.
  * An empty context is the start token alone, or the end token of a vocabulary
    that has no start token.
  * A text that is too long is cut from the left.

One rule differs. The harness scores a start token that the tokenizer adds to a
rolling text; here a start token is never scored.

Example, bytes as ids, start token 0, context 'ab ', continuation 'c':

  whole     [0, a, b, ' ', c]
  ids       [0, a, b, ' ']    what the model reads
  targets         [' ', c]    the tokens that follow the last two of them
"""

import dataclasses
from collections.abc import Sequence

from moejax.core import errors
from moejax.data.vocab import Vocab
from moejax.evals import generate


@dataclasses.dataclass(frozen=True)
class Scored:
  """Tokens that a model reads, and those that it is to predict.

  Attributes:
    ids: ids that the model reads.
    targets: the ids that follow the last `len(targets)` of them.
    cut: number of ids that were cut from the left.
  """

  ids: tuple[int, ...]
  targets: tuple[int, ...]
  cut: int = 0

  @property
  def prefix(self) -> int:
    """Number of ids at the front whose outputs are not used."""
    return len(self.ids) - len(self.targets)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes texts for a model with a limited context.

  Attributes:
    vocab: the vocabulary.
    max_length: most ids that the model reads.
    special_tokens: whether special tokens in a text, such as <|im_start|>,
      stand for themselves, as in lm-evaluation-harness; else they are text.
  """

  vocab: Vocab
  max_length: int
  special_tokens: bool = False

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, without a start token."""
    if self.special_tokens:
      return [self.vocab.encode_prompt(text) for text in texts]
    return self.vocab.encode_batch(texts)

  @property
  def opening(self) -> tuple[int, ...]:
    """The ids that stand for an empty context."""
    return self.vocab.start or (self.vocab.first_id,)

  def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
    """The ids of (context, continuation) pairs.

    Raises:
      InputError: a continuation is empty, or longer than the model's context.
    """
    moved = [_white_space_moved(*pair) for pair in pairs]
    # Each text once: the options of a question share their context.
    texts = {context for context, _ in moved}
    texts |= {context + continuation for context, continuation in moved}
    ordered = sorted(texts - {''})
    ids = dict(zip(ordered, self.encode(ordered), strict=True))
    return [
      self._scored(ids, context, continuation)
      for context, continuation in moved
    ]

  def check_fit(self, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises InputError if `pairs` would, for a continuation that is too long.

    A token has a byte or more, so only long continuations are encoded. A
    tokenizer may put a space before a text.
    """
    moved = [_white_space_moved(*pair) for pair in pairs]
    long = [p for p in moved if len(p[1].encode()) >= self.max_length]
    if long:
      self.pairs(long)

  def _scored(
    self, ids: dict[str, list[int]], context: str, continuation: str
  ) -> Scored:
    if not continuation:
      raise errors.InputError(
        f'the continuation of {context[-40:]!r} is empty: it has no token to '
        'score; give it text'
      )
    whole = ids[context + continuation]
    if not context:
      before, after = list(self.opening), whole
      if before == after[: len(before)] and len(after) > len(before):
        after = after[len(before) :]
    else:
      before = ids[context]
      # A tokenizer may merge the whole continuation into the context's end.
      size = min(len(before), len(whole) - 1)
      before, after = before[:size], whole[size:]
      before = generate.begun(before, self.vocab.start) or list(self.opening)
    if len(after) > self.max_length:
      raise errors.InputError(
        f'the continuation {continuation[:40]!r}... has {len(after)} tokens, '
        f'but the model reads {self.max_length}; shorten it'
      )
    read = [*before, *after[:-1]]
    cut = max(0, len(read) - self.max_length)
    return Scored(tuple(read[cut:]), tuple(after), cut)

  def windows(self, text: str) -> list[Scored]:
    """A text in windows, in which each of its tokens is a target once.

    The first window begins with the start token. Every later window is full
    of the tokens before its targets.

    Example, a context of 3, start token 0, text [5, 6, 7, 8]:
      ids [0, 5, 6]  targets [5, 6, 7]
      ids [5, 6, 7]  targets [8]

    Raises:
      InputError: the text is empty.
    """
    (tokens,) = self.encode([text])
    if tokens[: len(self.vocab.start)] == list(self.vocab.start):
      tokens = tokens[len(self.vocab.start) :]
    if not tokens:
      raise errors.InputError(
        f'the text {text!r} has no token to score; give it words'
      )
    whole = [*self.opening, *tokens]
    windows: list[Scored] = []
    done = len(self.opening)  # ids that need no prediction any more
    while done < len(whole):
      end = min(len(whole), max(done, self.max_length) + 1)
      if windows:
        end = min(len(whole), done + self.max_length)
      read = whole[max(0, end - 1 - self.max_length) : end - 1]
      windows.append(Scored(tuple(read), tuple(whole[done:end])))
      done = end
    return windows

  def prompts(
    self, texts: Sequence[str], max_tokens: Sequence[int]
  ) -> list[tuple[list[int], int]]:
    """The ids of prompts to continue, each with the number of ids cut off.

    A prompt is cut from the left, so that its continuation has room for
    `max_tokens`; if they fill the whole context, for half of it.

    Args:
      texts: the prompts.
      max_tokens: most new tokens of each.
    """
    cut = []
    encoded = self.encode(texts)
    for ids, tokens in zip(encoded, max_tokens, strict=True):
      read = generate.begun(ids, self.vocab.start) or list(self.opening)
      room = self.max_length - tokens
      if room < 1:
        room = max(1, self.max_length // 2)
      kept = read[max(0, len(read) - room) :]
      cut.append((kept, len(read) - len(kept)))
    return cut


def _white_space_moved(context: str, continuation: str) -> tuple[str, str]:
  """The pair, with white space at the context's end before the continuation.

  Example: ('a ', 'b') becomes ('a', ' b').
  """
  bare = context.rstrip()
  return bare, context[len(bare) :] + continuation
