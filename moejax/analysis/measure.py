"""Measure: one entry of the table MEASURES, and the rows that it gives."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

Rows = dict[str, dict[str, Any]]
Needs = Literal['counts', 'one', 'several', 'weights', 'outputs']

# What a measure reads, by its `needs`, as a message says it.
SOURCES: dict[Needs, str] = {
  'counts': 'the assignments that an evaluation counts',
  'one': 'the trace of one checkpoint',
  'several': 'the traces of at least two checkpoints',
  'weights': "the experts' weights",
  'outputs': "the outputs of each token's experts",
}


@dataclasses.dataclass(frozen=True)
class Measure:
  """A measure and what it reads.

  Attributes:
    function: takes a `RoutingStatistics` if the measure needs 'counts', else
      `Traces`, and returns rows.
    needs: a key of `SOURCES`.
  """

  function: Callable[[Any], Rows]
  needs: Needs

  def __call__(self, source: Any) -> Rows:
    """The rows, {row: {column: value}}, which `json.dumps` takes as they are.

    A value without a definition, such as a mean over no token, is None.
    """
    return self.function(source)
