"""The contract of loggers: a config entry that opens a metric writer."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from moejax.core import errors, log, terminal
from moejax.train.loggers import service


@dataclasses.dataclass(frozen=True)
class Place:
  """What a logger is told of a run.

  Attributes:
    folder: the workdir.
    steps: the step at which the run is complete.
    config: the config as nested dictionaries.
    flat: every key of the config by its dotted path.
    say: shows a line to the user; it is called by the thread that trains.
  """

  folder: epath.Path
  steps: int = 0
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  flat: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  say: Callable[[str], None] = terminal.say


@dataclasses.dataclass(frozen=True)
class Logger:
  """One place where metrics are written; its fields are its config keys."""

  def check(self, place: Place) -> None:
    """Raises InputError if it cannot write; called before any work."""
    del place

  def open(self, place: Place) -> log.Writer:
    """Its writer, which writes nothing yet."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Outside(Logger):
  """A logger that sends metrics to another program, from a thread.

  Whatever happens there, the run goes on. See `service.ServiceWriter`.
  """

  def package(self) -> str:
    """The package that it needs, which is also its extra and its name."""
    raise NotImplementedError

  def service(self, place: Place) -> service.Service:
    """The other program; nothing is imported or sent yet."""
    raise NotImplementedError

  def check(self, place: Place) -> None:
    """Raises InputError if its package is not installed."""
    del place
    name = self.package()
    if importlib.util.find_spec(name) is None:
      raise errors.InputError(
        f'train.loggers.{name} needs the package {name}: '
        f"pip install 'moejax[{name}]', or train.loggers.{name}=off"
      )

  def open(self, place: Place) -> log.Writer:
    """The writer; its thread starts with the run."""
    return service.ServiceWriter(
      self.package(),
      self.service(place),
      place.folder,
      place.steps,
      place.say,
    )
