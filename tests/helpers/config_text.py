"""A config as text, for golden files."""

import json

from moejax.core import config_tree


def to_text(config):
  """Every key on a line of its own, sorted."""
  flat = config_tree.flatten(config)
  return ''.join(f'{key} = {json.dumps(flat[key])}\n' for key in sorted(flat))
