"""Paths of leaves in checkpoints of earlier versions, and those they have now.

A checkpoint names every leaf by its path in the state. Where a weight has been
renamed, a line here keeps checkpoints with the old path readable. New
checkpoints are written with the new path.
"""

import re
from collections.abc import Iterable

# Pattern of the old path, and what replaces it; tried in this order. The
# moments of an optimiser end in the path of their weight, so they follow it.
RENAMED = (
  (
    r'(^|/)ffn/memory/(\w+)/bias_E$',
    r'\1ffn/router_state/\2/selection_bias_E',
  ),
  (r'(^|/)ffn/memory/', r'\1ffn/router_state/'),
  (r'(^|/)ffn/heads/', r'\1ffn/extra_scorers/'),
)


def current(path: str) -> str:
  """The path that a leaf has now, from the path that it was saved under."""
  for pattern, replacement in RENAMED:
    path = re.sub(pattern, replacement, path)
  return path


def stored_as(saved: Iterable[str]) -> dict[str, str]:
  """From the path that each saved leaf has now to that it was saved under."""
  return {current(path): path for path in saved}
