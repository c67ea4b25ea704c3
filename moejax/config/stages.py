"""Stages: runs that are trained one after the other, each from earlier ones.

A config file that has several stages lists them under STAGES, and its
`get_config` gets the name of one as its last word:

  from moejax import config

  STAGES = (
    config.Stage('text'),
    config.Stage('sight'),
    config.Stage('connector', {'text': '*', 'sight': 'vision/encoder'}),
    config.Stage('everything', {'connector': '*'}),
    config.Stage('experts', upcycles='everything'),
  )

  def get_config(words):
    folder, _, stage = words.rpartition(',')

`moejax stages --config=FILE:FOLDER` then trains FILE:FOLDER,text,
FILE:FOLDER,sight and so on.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.config import loading, user_files
from moejax.config.run import Run
from moejax.core import errors

# The name of a stage is a folder, and a word of a config.
_NAME = re.compile('[A-Za-z0-9][A-Za-z0-9_-]*')


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of several runs that are trained in turn.

  Attributes:
    name: name of the stage, and of its folder.
    starts: by name of an earlier stage, the weights that are taken from it, as
      paths like those of `opt.parts`; '*' for all that both models have. Other
      weights are drawn from the seed.
    upcycles: an earlier stage whose dense feed-forwards become the experts of
      this one; all other weights are copied.
  """

  name: str
  starts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  upcycles: str = ''

  @property
  def sources(self) -> list[str]:
    """The stages that it begins with."""
    return [*self.starts, *([self.upcycles] if self.upcycles else [])]


def read(spec: str) -> tuple[Stage, ...]:
  """The stages of a config file.

  Args:
    spec: path[:arg] of the file.

  Raises:
    InputError: the file has none, or they do not fit together.
  """
  path = spec.partition(':')[0]
  stages = getattr(user_files.load(path, 'config'), 'STAGES', None)
  if not stages:
    raise errors.InputError(
      f'{path} has no STAGES: train it with moejax train, or list its stages '
      '(docs/vision_training.md)'
    )
  if not isinstance(stages, tuple | list):
    raise errors.InputError(f'{path}: STAGES is {stages!r}, and no tuple')
  for number, stage in enumerate(stages):
    _check(path, stage, [earlier.name for earlier in stages[:number]])
  return tuple(stages)


def _check(path: str, stage: Any, earlier: Sequence[str]) -> None:
  if not isinstance(stage, Stage):
    raise errors.InputError(
      f'{path}: STAGES has {stage!r}, which is no config.Stage'
    )
  typed = isinstance(stage.name, str) and isinstance(stage.upcycles, str)
  pairs = stage.starts if isinstance(stage.starts, Mapping) else {'': None}
  if not typed or not all(isinstance(x, str) for x in pairs.values()):
    raise errors.InputError(
      f'{path}: {stage!r} wants a name, paths of weights by the name of an '
      "earlier stage, such as {'text': '*'}, and the name of one for upcycles"
    )
  if not _NAME.fullmatch(stage.name) or stage.name == 'tiny':
    raise errors.InputError(
      f'{path}: stage {stage.name!r} names a folder and a word of the config: '
      'use letters, digits, _ and -, and another word than tiny'
    )
  if stage.name in earlier:
    raise errors.InputError(f'{path}: two stages are called {stage.name!r}')
  if stage.starts and stage.upcycles:
    raise errors.InputError(
      f'{path}: stage {stage.name!r} has starts and upcycles '
      f'{stage.upcycles!r}: leave out one of them'
    )
  for source in stage.sources:
    if source not in earlier:
      listed = ', '.join(earlier) or 'none'
      raise errors.InputError(
        f'{path}: stage {stage.name!r} begins with {source!r}, which is no '
        f'earlier stage; those are: {listed}'
      )


def load(
  spec: str,
  stage: Stage,
  overrides: Sequence[tuple[str, str]],
  workdir: str,
) -> Run:
  """The run of a stage; arguments and errors as of `loading.load`.

  Args:
    spec: path[:arg] of the config file, without the stage.
    stage: the stage.
    overrides: dotted paths and texts of flags.
    workdir: the folder of all stages.
  """
  path, _, arg = spec.partition(':')
  words = f'{arg},{stage.name}' if arg else stage.name
  folder = os.path.join(workdir, stage.name)
  return loading.load(f'{path}:{words}', overrides, folder)
