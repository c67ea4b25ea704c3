"""Fewer experts: which ones matter, which ones stay, and how others merge.

Everything here is NumPy on the host and runs no model. The steps, in order:

  statistics   what the experts did with a domain's text: `ExpertStatistics`
  importance   a score for each expert: the table IMPORTANCE
  domains      scores of several domains, with weights: `mixed`
  choice       which experts stay: the table CHOICES

docs/compress.md has every formula with its source.
"""

from moejax.compress.choice import CHOICES
from moejax.compress.importance import IMPORTANCE

__all__ = ['CHOICES', 'IMPORTANCE']
