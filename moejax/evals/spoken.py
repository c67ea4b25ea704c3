"""Spoken: the text of ids that come one by one, in pieces."""

from moejax.data.vocab import Vocab

# What a decoder gives for bytes that are no character (yet).
REPLACEMENT = '\N{REPLACEMENT CHARACTER}'


class Spoken:
  """The text of a growing list of ids, in pieces that are never taken back.

  The pieces together are the text of all ids. A token may be less than a
  character: the bytes of an unfinished character are kept back.

  Example, bytes: ids of 'a', then of the two bytes of 'é':
    add(a)  'a'      add(195)  ''      add(169)  'é'
  """

  def __init__(self, vocab: Vocab):
    self._vocab = vocab
    self._ids: list[int] = []
    self._said = 0

  def add(self, *ids: int) -> str:
    """The text that these ids complete."""
    self._ids.extend(ids)
    return self._piece(self._vocab.decode(self._ids).rstrip(REPLACEMENT))

  def rest(self) -> str:
    """What was kept back, when no more is to come."""
    return self._piece(self._vocab.decode(self._ids))

  def _piece(self, text: str) -> str:
    piece = text[self._said :]
    self._said = max(self._said, len(text))
    return piece
