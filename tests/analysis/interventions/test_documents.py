"""docs/analysis.md has a row for every intervention."""

import pathlib
import re

from moejax.analysis.interventions import INTERVENTIONS

PAGE = pathlib.Path(__file__).parents[3] / 'docs' / 'analysis.md'


def test_every_intervention_has_a_row_and_no_other_has():
  text = PAGE.read_text()
  table = text[text.index('| intervention | values |') :].partition('\n\n')[0]
  names = re.findall(r'^\| `(\w+)` \|', table, re.MULTILINE)
  assert sorted(names) == sorted(INTERVENTIONS)
