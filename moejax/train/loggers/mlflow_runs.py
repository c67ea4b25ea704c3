"""MLflow: a run of an experiment, on a server or in the workdir."""

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from moejax.core import errors, files
from moejax.train.loggers import service
from moejax.train.loggers.base import Outside, Place

URI = 'MLFLOW_TRACKING_URI'
DATABASE = 'mlflow.db'
# Most parameters of one request, and most characters of one.
PARAMETERS, CHARACTERS = 100, 6000


@dataclasses.dataclass(frozen=True)
class Mlflow(Outside):
  """A run of MLflow.

  Attributes:
    experiment: the experiment, which is made if it does not exist.
    uri: where runs are kept, such as http://host:5000; '' for the environment
      variable MLFLOW_TRACKING_URI, or else WORKDIR/loggers/mlflow.db.
  """

  experiment: str = 'moejax'
  uri: str = ''

  def package(self) -> str:
    """The package."""
    return 'mlflow'

  def check(self, place: Place) -> None:
    """Raises InputError without the package, or a place for the database."""
    super().check(place)
    if not self._given() and not files.is_local(place.folder):
      raise errors.InputError(
        f'train.loggers.mlflow keeps a database in a local workdir, not in '
        f'{place.folder}: set train.loggers.mlflow.uri=http://... of a server'
      )

  def service(self, place: Place) -> service.Service:
    """The run."""
    uri = self._given()
    if not uri:
      folder = os.path.abspath(place.folder / service.FOLDER)
      uri = f'sqlite:///{folder}/{DATABASE}'
    return _Run(self.experiment, uri, place)

  def _given(self) -> str:
    return self.uri or os.environ.get(URI, '')


class _Run:
  """A run of MLflow; see `service.Service`."""

  def __init__(self, experiment: str, uri: str, place: Place):
    self._experiment = experiment
    self._uri = uri
    self._place = place
    self._client: Any = None
    self._id = ''

  def place(self) -> str:
    """The server or database, and the experiment."""
    return f'{self._uri} {self._experiment}'

  def start(self, run: str | None) -> str:
    """Begins a run with the config as its parameters, or goes on with one."""
    import mlflow

    if self._uri.startswith('sqlite:'):
      (self._place.folder / service.FOLDER).mkdir(parents=True, exist_ok=True)
    self._client = mlflow.MlflowClient(tracking_uri=self._uri)
    if run:
      self._client.update_run(run, status='RUNNING')
      self._id = run
      return run
    name = self._place.folder.name
    begun = self._client.create_run(self._find_experiment(), run_name=name)
    self._id = begun.info.run_id
    items = [
      mlflow.entities.Param(key, str(value)[:CHARACTERS])
      for key, value in self._place.flat.items()
    ]
    for first in range(0, len(items), PARAMETERS):
      some = items[first : first + PARAMETERS]
      self._client.log_batch(self._id, params=some)
    return self._id

  def log(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the metrics of a step."""
    import mlflow

    now = int(time.time() * 1000)
    metrics = [
      mlflow.entities.Metric(_allowed(name), value, now, step)
      for name, value in scalars.items()
    ]
    self._client.log_batch(self._id, metrics=metrics)

  def finish(self, complete: bool) -> None:
    """Ends the run; as killed if steps are missing, until it goes on."""
    status = 'FINISHED' if complete else 'KILLED'
    self._client.set_terminated(self._id, status)

  def _find_experiment(self) -> str:
    """The id of the experiment, which may have to be made."""
    found = self._client.get_experiment_by_name(self._experiment)
    if found is None:
      # With a database the default would be a folder where the command runs.
      at = None
      if self._uri.startswith('sqlite:'):
        folder = os.path.abspath(self._place.folder / service.FOLDER)
        at = f'file://{folder}/mlflow_artifacts'
      return self._client.create_experiment(self._experiment, at)
    return found.experiment_id


def _allowed(name: str) -> str:
  """A name of a metric with the characters that MLflow accepts."""
  return re.sub(r'[^\w\-. :/]', '_', name, flags=re.ASCII)
