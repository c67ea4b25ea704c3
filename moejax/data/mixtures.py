"""MIXTURES: tasks and the rates at which a run mixes them, by name."""

import dataclasses
from typing import Any

from moejax.data import seqio_bridge
from moejax.data import tasks as tasks_lib
from moejax.data import vocab as vocabs


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Tasks and their rates.

  Attributes:
    tasks: names in TASKS.
    rates: sampling rate of each, relative to the others.
  """

  tasks: tuple[str, ...]
  rates: tuple[float, ...]


MIXTURES = {
  'c4': Mixture(('c4',), (1.0,)),
  'fineweb_edu': Mixture(('fineweb_edu',), (1.0,)),
  'minipile': Mixture(
    (
      'minipile_code',
      'minipile_dictionary',
      'minipile_factbook',
      'minipile_scripture',
      'minipile_speeches',
    ),
    (1.0, 1.0, 1.0, 1.0, 1.0),
  ),
  'synthetic': Mixture(('synthetic',), (1.0,)),
}


def to_seqio(name: str, vocab: vocabs.Vocab) -> Any:
  """A seqio.Mixture of the tasks, not registered; imports TensorFlow."""
  seqio, _ = seqio_bridge.load(name)
  mixture = MIXTURES[name]
  texts = [tasks_lib.TASKS[task] for task in mixture.tasks]
  tasks = [
    text.to_seqio(vocab)
    for text in texts
    if isinstance(text, tasks_lib.SeqioText)
  ]
  return seqio.Mixture(name, list(zip(tasks, mixture.rates, strict=True)))
