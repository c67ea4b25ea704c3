"""MEASURES: what the routers of a trained model do, by the measure's name.

  python -m moejax.cli.analyse --workdir=runs/tiny --measures=top_experts

A measure is a pure function from `RoutingStatistics` (analysis/statistics.py:
assignments of each expert by layer and domain) to rows of values,
{row: {name: value}}, which `json.dumps` takes as they are:

  {'layer 1': {'bible': [[3, 0.41], [0, 0.22]], 'code': ...}, 'layer 2': ...}

To add one, write its function in analysis/NAME.py, give it a line here, and a
test in tests/analysis/test_NAME.py of counts worked by hand. The command, the
JSON it writes and tests/analysis/test_measures.py then know it.
"""

from collections.abc import Callable
from typing import Any

from moejax.analysis import load, top_experts
from moejax.analysis.statistics import RoutingStatistics

Rows = dict[str, dict[str, Any]]
Measure = Callable[[RoutingStatistics], Rows]

MEASURES: dict[str, Measure] = {
  'top_experts': top_experts.top_experts,
  'load': load.load,
}
