"""MIXTURES: tasks and the rates at which a run mixes them, by name."""

import dataclasses


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
  'c4_hub': Mixture(('c4_hub',), (1.0,)),
  'dclm': Mixture(('dclm',), (1.0,)),
  'dolma': Mixture(('dolma',), (1.0,)),
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
  'slimpajama': Mixture(('slimpajama',), (1.0,)),
  'stack': Mixture(('stack',), (1.0,)),
  'synthetic': Mixture(('synthetic',), (1.0,)),
  'wikipedia': Mixture(('wikipedia',), (1.0,)),
  'wikipedia_tfds': Mixture(('wikipedia_tfds',), (1.0,)),
}
