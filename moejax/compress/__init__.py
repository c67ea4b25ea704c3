"""Fewer experts: which ones matter, which ones stay, and how others merge.

Everything here is arithmetic on arrays of the host and runs no model. The
steps, in order:

  statistics   what the experts did with a domain's text: `ExpertStatistics`
  importance   a score for each expert: the table IMPORTANCE
  domains      scores of several domains, with weights: `mixed`
  choice       which experts stay: the table CHOICES
  merge        the others join these: `merge_layer`, with the tables GROUPINGS
               and MEANS, and `alignment` of hidden units
  methods      all of these by one name: the table METHODS
  low_rank     matrices as U V + S, and `sparsity` of S while it trains
  distillation the loss with which a smaller model learns from the full one

docs/compress.md has every formula with its source.
"""

from moejax.compress.choice import CHOICES
from moejax.compress.grouping import GROUPINGS
from moejax.compress.importance import IMPORTANCE
from moejax.compress.means import MEANS
from moejax.compress.methods import METHODS

__all__ = ['CHOICES', 'GROUPINGS', 'IMPORTANCE', 'MEANS', 'METHODS']
