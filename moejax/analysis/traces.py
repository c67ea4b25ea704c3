"""Traces: what several checkpoints of one run did with the same tokens."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from moejax.analysis import bootstrap
from moejax.analysis.trace import Trace
from moejax.core import errors

# The arrays of a trace that say which tokens it has.
_TEXT = ('token_T', 'position_T', 'document_T', 'domain_T')


@dataclasses.dataclass(frozen=True)
class ExpertOutputs:
  """The outputs of the chosen experts of some tokens in one layer.

  Attributes:
    layer: index of the layer among those with experts, from 0.
    expert_TK: the experts, `NOWHERE` where a token has fewer than k.
    output_TKD: float32, the output of each, before it is weighted.
    document_T: number of the token's document.
  """

  layer: int
  expert_TK: np.ndarray
  output_TKD: np.ndarray
  document_T: np.ndarray


@dataclasses.dataclass(frozen=True)
class Traces:
  """The argument of a measure: traces of one run, in order of step.

  A sequence that reads a trace only when it is indexed keeps memory to two
  traces, since measures go through them in order.

  Attributes:
    each: the traces, all of the same tokens and layers.
    seed: seed of the bootstrap.
    weights: for measures that need weights: of each layer, the weights of each
      expert of the last checkpoint, flattened: [E, P].
    outputs: for measures that need outputs: those of the last checkpoint, in
      any order. It is read once.
  """

  each: Sequence[Trace]
  seed: int = 0
  weights: Sequence[np.ndarray] | None = None
  outputs: Iterable[ExpertOutputs] | None = None

  @classmethod
  def of(cls, traces: Sequence[Trace], **fields) -> 'Traces':
    """Traces in order of step, after `check_same`.

    Raises:
      InputError: two traces are not of the same tokens, layers and experts.
    """
    ordered = sorted(traces, key=lambda trace: trace.step)
    for trace in ordered[:-1]:
      check_same(trace, ordered[-1])
    return cls(ordered, **fields)

  @functools.cached_property
  def last(self) -> Trace:
    """The trace of the last checkpoint."""
    return self.each[-1]

  @functools.cached_property
  def documents(self) -> bootstrap.Documents:
    """The documents of the tokens, as a bootstrap draws them."""
    return bootstrap.Documents.of(self.last.document_T, self.seed)


def check_same(trace: Trace, other: Trace) -> None:
  """Raises InputError if two traces cannot be compared token by token."""
  where = f'the traces of steps {trace.step} and {other.step}'
  for name, title in (
    ('layers', 'layers with experts'),
    ('num_experts', 'number of experts'),
    ('domains', 'domains'),
  ):
    mine, theirs = getattr(trace, name), getattr(other, name)
    if mine != theirs:
      raise errors.InputError(
        f'{where} differ in their {title}, {_listed(mine)} and '
        f'{_listed(theirs)}: they are of different models or texts; trace both '
        'checkpoints with the same flags'
      )
  if not all(
    np.array_equal(getattr(trace, name), getattr(other, name)) for name in _TEXT
  ):
    raise errors.InputError(
      f'{where} are not of the same tokens ({len(trace.token_T):,} and '
      f'{len(other.token_T):,}); trace both checkpoints with the same text, '
      'tokenizer and --tokens'
    )


def _listed(value: object) -> str:
  """A number, or a tuple without its brackets."""
  return ', '.join(map(str, value)) if isinstance(value, tuple) else str(value)
