"""Finding: one line of what `moejax doctor` says."""

import dataclasses
from typing import Any

OK, MISSING, BROKEN = 'ok', 'missing', 'broken'


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was found out about one thing.

  Attributes:
    part: heading below which it is shown, such as 'packages'.
    name: the thing, such as 'jax'.
    text: what it is, such as its version, or what is wrong with it.
    state: OK; MISSING for what only some features need; BROKEN for what every
      run needs.
    remedy: the command, or the words, that mend it.
    value: the number in the text, for programs; None if there is none.
    unit: of the value.
  """

  part: str
  name: str
  text: str
  state: str = OK
  remedy: str = ''
  value: float | None = None
  unit: str = ''

  def to_json(self) -> dict[str, Any]:
    """As a dictionary."""
    return dataclasses.asdict(self)

  def line(self) -> str:
    """As a line, below the heading of its part.

    Example: 'flax              0.12.4'
    """
    words = f'{self.name:<18}{self.text}'
    if self.state == BROKEN:
      words = f'{self.name:<18}BROKEN: {self.text}'
    return f'{words}: {self.remedy}' if self.remedy else words
