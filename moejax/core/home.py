"""Paths as users write them."""

import os


def at_home(text: str) -> str:
  """A path with the home folder in place of a `~/` at its beginning.

  A shell replaces it at the beginning of a word only, and so not in
  `--workdir=~/runs`. Text that begins otherwise stays as it is.
  """
  return os.path.expanduser(text) if text.startswith('~/') else text
