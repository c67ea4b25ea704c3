"""Removes documents whose text has come before."""

import dataclasses
import hashlib
import unicodedata

from moejax.data.steps import base


def normalised(text: str, ignore_case: bool = True) -> str:
  r"""The text without differences that a reader would not notice.

  Unicode's compatible forms become one (NFKC), every run of whitespace becomes
  a space, none stands at the ends, and, unless the case counts, letters are
  folded to one case.

  Example:
    ' The ﬁrst\n\tLine '  'the first line'
  """
  text = unicodedata.normalize('NFKC', text)
  if ignore_case:
    text = text.casefold()
  return ' '.join(text.split())


@dataclasses.dataclass(frozen=True)
class ExactDuplicates(base.FirstOfEqual):
  """Keeps the first of the documents whose `normalised` texts are equal.

  The texts are compared by 128-bit hashes, which take some 100 bytes of memory
  for each document kept.

  Attributes:
    ignore_case: whether texts that differ only in case are equal.
  """

  ignore_case: bool = True

  def examine(self, text: str) -> bytes:
    data = normalised(text, self.ignore_case).encode()
    return hashlib.blake2b(data, digest_size=16).digest()
