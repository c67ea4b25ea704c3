"""EVALS: every evaluation of a trained model by its name.

  moejax evaluate --workdir=runs/tiny --evals=perplexity

An evaluation is a function from a `Subject` (evals/subject.py: model, weights,
data, vocabulary) to rows of values, {row: {name: value}}, which `json.dumps`
takes as they are:

  {'bible': {'loss': 2.31, 'perplexity': 10.1, ...}, 'code': {...}}

A row is a validation set, a task or a prompt; None is a value that is not
known. An error that the user can mend is an InputError of one line. All
processes of a run call an evaluation together.

To add one, write its function in evals/NAME.py, give it a line here, and a test
in tests/evals/test_NAME.py of rows worked by hand. The command, the JSON it
writes and tests/evals/test_evals.py then know it.
"""

from collections.abc import Callable
from typing import Any

from moejax.evals import samples, validation
from moejax.evals.subject import Subject

Rows = dict[str, dict[str, Any]]
Evaluation = Callable[[Subject], Rows]

EVALS: dict[str, Evaluation] = {
  'perplexity': validation.perplexity,
  'samples': samples.samples,
}
