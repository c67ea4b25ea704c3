"""Paths of leaves in checkpoints of earlier versions, and their paths today.

A checkpoint names every leaf by its path in the state. Where a weight has been
renamed, a line here keeps checkpoints with the old path readable. New
checkpoints are written with the new path.
"""

import re
from collections.abc import Iterable

# Pattern of the old path and its replacement, applied in this order. The path
# of an optimiser's moment ends in that of its weight, so it is mapped as well.
RENAMED = (
  (
    r'(^|/)ffn/memory/(\w+)/bias_E$',
    r'\1ffn/router_state/\2/selection_bias_E',
  ),
  (r'(^|/)ffn/memory/', r'\1ffn/router_state/'),
  (r'(^|/)ffn/heads/', r'\1ffn/extra_scorers/'),
)


def current(path: str) -> str:
  """Today's path of a leaf that was saved under `path`."""
  for pattern, replacement in RENAMED:
    path = re.sub(pattern, replacement, path)
  return path


def stored_as(saved: Iterable[str]) -> dict[str, str]:
  """The path under which each leaf was saved, by its path today."""
  return {current(path): path for path in saved}
