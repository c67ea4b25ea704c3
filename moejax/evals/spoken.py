"""Spoken: decodes ids to text one by one, as they are generated."""

from moejax.data.vocab import Vocab

# A decoder's character for bytes that are no character, or not yet a whole one.
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
    self._num_shown = 0

  def add(self, *ids: int) -> str:
    """The text that these ids complete."""
    self._ids.extend(ids)
    return self._piece(self._vocab.decode(self._ids).rstrip(REPLACEMENT))

  def rest(self) -> str:
    """The text that was kept back; called after the last id."""
    return self._piece(self._vocab.decode(self._ids))

  def _piece(self, text: str) -> str:
    """The end of the whole text that has not been returned yet."""
    piece = text[self._num_shown :]
    self._num_shown = max(self._num_shown, len(text))
    return piece
