"""State of a cache that is being written: what `progress.json` holds.

It has the position in the text after every finished shard. So an interrupted
writer goes on behind the last one, and a shard whose bytes have changed since
is written again by itself.
"""

import dataclasses
import json
import pathlib
from typing import Any

from moejax.core import files

PROGRESS = 'progress.json'


@dataclasses.dataclass
class State:
  """Everything that resuming needs.

  Attributes:
    documents: documents that are packed whole.
    offset: tokens of the next document that are packed.
    rows: rows behind them that are packed.
    cut: documents in more than one row.
    num_read: documents read, of which some may not be packed yet.
    num_tokens: targets written.
    num_documents: documents read that are not empty.
    num_bytes: UTF-8 bytes of their text.
    shards: the finished shards, as fields of `cache.Shard`.
    after: the numbers above as they were after each shard.
  """

  documents: int = 0
  offset: int = 0
  rows: int = 0
  cut: int = 0
  num_read: int = 0
  num_tokens: int = 0
  num_documents: int = 0
  num_bytes: int = 0
  shards: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  after: list[list[int]] = dataclasses.field(default_factory=list)

  def add(self, shard: dict[str, Any]) -> None:
    """Enters a shard that has just been finished."""
    self.shards.append(shard)
    self.after.append([getattr(self, name) for name in COUNTS])

  def before(self, number: int) -> 'State':
    """The state in which shard `number` was begun."""
    counts = self.after[number - 1] if number else [0] * len(COUNTS)
    return State(
      **dict(zip(COUNTS, counts, strict=True)),
      shards=self.shards[:number],
      after=self.after[:number],
    )


COUNTS = tuple(
  field.name
  for field in dataclasses.fields(State)
  if field.name not in ('shards', 'after')
)


def read(folder: pathlib.Path) -> tuple[State, list[int]]:
  """The state of an unfinished cache, and the numbers of damaged shards.

  It is that of an empty cache if there is none, or if a shard is damaged whose
  beginning an earlier version did not write down.
  """
  try:
    state = State(**json.loads((folder / PROGRESS).read_text()))
    damaged = [
      number
      for number, shard in enumerate(state.shards)
      if not _is_whole(folder / shard['file'], shard['sha256'])
    ]
    if damaged and len(state.after) != len(state.shards):
      return State(), []
    return state, damaged
  except (OSError, ValueError, TypeError, KeyError):
    return State(), []


def write(folder: pathlib.Path, state: State) -> None:
  """Writes the state, whole or not at all."""
  text = json.dumps(dataclasses.asdict(state))
  files.atomic_write_text(folder / PROGRESS, text)


def _is_whole(path: pathlib.Path, sha256: str) -> bool:
  try:
    return files.sha256(path) == sha256
  except OSError:
    return False
