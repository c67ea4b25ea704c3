"""Weights & Biases: a run of a project, online or in the workdir."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from moejax.core import errors, fields, files
from moejax.train.loggers import service
from moejax.train.loggers.base import Outside, Place

MODES = ('auto', 'online', 'offline')
# Seconds that W&B may upload after the end. The rest of the wait is for its
# own process to end.
UPLOAD_S = service.FINISH_S - 15


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases(Outside):
  """A run of Weights & Biases.

  Attributes:
    project: the project, which is made if it does not exist.
    entity: the user or team that has the project; '' for that of the key.
    mode: auto takes the environment variable WANDB_MODE, or else online with
      an API key and offline without one. offline writes to
      WORKDIR/loggers/wandb, from where `wandb sync` sends it.
  """

  project: str = 'moejax'
  entity: str = ''
  mode: str = fields.named(MODES, 'auto')

  def package(self) -> str:
    """The package."""
    return 'wandb'

  def check(self, place: Place) -> None:
    """Raises InputError without the package, or offline in an object store."""
    super().check(place)
    if self.mode == 'offline' and not files.is_local(place.folder):
      raise errors.InputError(
        f'train.loggers.wandb.mode=offline writes to a local workdir, not to '
        f'{place.folder}: take mode=online'
      )

  def service(self, place: Place) -> service.Service:
    """The run."""
    return _Run(self, place)


class _Run:
  """A run of W&B; see `service.Service`."""

  def __init__(self, config: WeightsAndBiases, place: Place):
    self._config = config
    self._place = place
    self._run: Any = None
    self._mode = ''

  def place(self) -> str:
    """Online or offline, and the project."""
    import wandb

    self._mode = self._config.mode
    if self._mode == 'auto':
      self._mode = os.environ.get('WANDB_MODE', '')
    if not self._mode:
      # Without a prompt: a run may not wait for an answer.
      known = wandb.login(prompt=False)
      self._mode = 'online' if known else 'offline'
    server = os.environ.get('WANDB_BASE_URL', 'wandb.ai')
    parts = [server, self._config.entity, self._config.project]
    return '/'.join([self._mode, *filter(None, parts)])

  def start(self, run: str | None) -> str:
    """Begins or resumes the run."""
    import wandb

    self._run = wandb.init(
      project=self._config.project,
      entity=self._config.entity or None,
      name=self._place.folder.name,
      id=run,
      resume='allow' if run else None,
      config=dict(self._place.config),
      dir=self._folder(),
      mode=self._mode,
      # A run of its own beside those of the program that trains.
      reinit='create_new',
      settings=wandb.Settings(
        console='off', silent=True, finish_timeout=UPLOAD_S
      ),
    )
    return self._run.id

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds to the history of the run."""
    self._run.log(dict(scalars), step=step)

  def finish(self, complete: bool) -> None:
    """Ends the run; as failed if steps are missing, until it goes on."""
    self._run.finish(exit_code=0 if complete else 1)

  def _folder(self) -> str:
    """Where W&B keeps its files, which are copies if it is online."""
    folder = self._place.folder / service.FOLDER
    if not files.is_local(folder):
      return tempfile.mkdtemp(prefix='moejax-wandb-')
    folder.mkdir(parents=True, exist_ok=True)
    return os.fspath(folder)
