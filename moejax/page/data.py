"""PageData: what one workdir holds, as the sections of the page read it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moejax.analysis.trace import Trace

Row = Mapping[str, Any]


class Picture(NamedTuple):
  """An image among the tokens of a text.

  Attributes:
    begin: its first token.
    end: behind its last one.
    columns: patches of a row of the image.
  """

  begin: int
  end: int
  columns: int


@dataclasses.dataclass(frozen=True)
class PageData:
  """The files of one workdir, read and parsed; `run/page.py` gathers them.

  A file that the workdir does not have is None, or empty if it is a collection.

  Attributes:
    name: what the run is called on the page.
    config: config.json, all keys as a tree.
    versions: versions.json, the packages, commit and devices.
    metrics: records of metrics.jsonl, in order of their steps.
    report: report.json of a finished run.
    goodput: goodput.json, seconds by activity.
    plan: plan.json, as `moejax plan --out` writes it.
    measures: rows of each measure of the traces, {row: {column: value}}.
    interventions: interventions/NAME.json, by name.
    published: published curves by measure and name: [share of training in %,
      value] pairs.
    trace: the beginning of each domain in the trace of the newest traced
      checkpoint.
    texts: text of each token of `trace`; empty without a vocabulary.
    pictures: images among these tokens, whose tokens are patches row by row.
    words: text of the vocabulary ids that a measure lists; empty without a
      vocabulary.
  """

  name: str
  config: Row | None = None
  versions: Row | None = None
  metrics: Sequence[Row] = ()
  report: Row | None = None
  goodput: Row | None = None
  plan: Row | None = None
  measures: Mapping[str, Mapping[str, Row]] = dataclasses.field(
    default_factory=dict
  )
  interventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  published: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = (
    dataclasses.field(default_factory=dict)
  )
  trace: Trace | None = None
  texts: Sequence[str] = ()
  pictures: Sequence[Picture] = ()
  words: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def key(self, path: str) -> Any:
    """The value of a config key by its dotted path; None if it is not known."""
    value: Any = self.config
    for name in path.split('.'):
      if not isinstance(value, Mapping) or name not in value:
        return None
      value = value[name]
    return value

  def series(self, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric, where metrics.jsonl has it."""
    rows = [row for row in self.metrics if name in row]
    return [row['step'] for row in rows], [row[name] for row in rows]

  def last(self, name: str) -> Any:
    """The newest value of a metric; None if it was never written."""
    values = self.series(name)[1]
    return values[-1] if values else None
