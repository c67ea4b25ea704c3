"""MEASURES: what the routers of a trained model do, by the measure's name.

  moejax analyse --workdir=runs/tiny --measures=top_experts

A measure is a pure function in measures/NAME.py. It takes what its entry says
that it `needs`: 'counts' is a `RoutingStatistics` (statistics.py), which any
evaluation gives; all others are `Traces` (traces.py), what the checkpoints of a
run did with each token of a text. It returns rows of values, {row: {column:
value}}, which `json.dumps` takes as they are:

  {'layer 1': {'bible': [[3, 0.41], [0, 0.22]], 'code': ...}, 'layer 2': ...}

To add one, write its function in measures/NAME.py, with its definition and its
source in the docstring, give it a line here and one in the table of
docs/analysis.md, and a test in tests/analysis/measures/test_NAME.py of numbers
worked by hand. The command, the JSON it writes and
tests/analysis/test_measures.py then know it.
"""

from moejax.analysis.measure import Measure
from moejax.analysis.measures.allocation_entropy import allocation_entropy
from moejax.analysis.measures.change_rate import change_rate
from moejax.analysis.measures.coactivation import coactivation
from moejax.analysis.measures.domain_specialisation import domain_specialisation
from moejax.analysis.measures.gate_entropy import gate_entropy
from moejax.analysis.measures.layer_overlap import layer_overlap
from moejax.analysis.measures.load import load
from moejax.analysis.measures.margin import margin
from moejax.analysis.measures.output_similarity import output_similarity
from moejax.analysis.measures.router_entropy import (
  entropy_by_frequency,
  entropy_by_position,
)
from moejax.analysis.measures.saturation import saturation
from moejax.analysis.measures.token_specialisation import token_specialisation
from moejax.analysis.measures.top_experts import top_experts
from moejax.analysis.measures.type_saturation import type_saturation
from moejax.analysis.measures.utilisation import utilisation
from moejax.analysis.measures.vocabulary import vocabulary
from moejax.analysis.measures.weight_similarity import weight_similarity

MEASURES: dict[str, Measure] = {
  'top_experts': Measure(top_experts, 'counts'),
  'load': Measure(load, 'counts'),
  'saturation': Measure(saturation, 'several'),
  'type_saturation': Measure(type_saturation, 'several'),
  'change_rate': Measure(change_rate, 'several'),
  'utilisation': Measure(utilisation, 'one'),
  'allocation_entropy': Measure(allocation_entropy, 'one'),
  'gate_entropy': Measure(gate_entropy, 'one'),
  'margin': Measure(margin, 'one'),
  'coactivation': Measure(coactivation, 'one'),
  'layer_overlap': Measure(layer_overlap, 'one'),
  'domain_specialisation': Measure(domain_specialisation, 'one'),
  'token_specialisation': Measure(token_specialisation, 'one'),
  'vocabulary': Measure(vocabulary, 'one'),
  'entropy_by_frequency': Measure(entropy_by_frequency, 'one'),
  'entropy_by_position': Measure(entropy_by_position, 'one'),
  'weight_similarity': Measure(weight_similarity, 'weights'),
  'output_similarity': Measure(output_similarity, 'outputs'),
}
