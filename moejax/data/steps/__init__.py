"""STEPS: what removes documents from a text before it is packed, by name.

To add a step, write a frozen dataclass derived from `base.Filter` or
`base.Step`, whose fields are its config keys, and add a line to STEPS.
"""

from collections.abc import Mapping

from moejax.data.steps.base import Step
from moejax.data.steps.exact_duplicates import ExactDuplicates
from moejax.data.steps.length import Length
from moejax.data.steps.near_duplicates import NearDuplicates
from moejax.data.steps.quality import Quality
from moejax.data.steps.repetition import Repetition

# Steps run in this order, cheap ones first, unless `data.step_order` is set.
STEPS: Mapping[str, type[Step]] = {
  'length': Length,
  'exact_duplicates': ExactDuplicates,
  'quality': Quality,
  'repetition': Repetition,
  'near_duplicates': NearDuplicates,
}
