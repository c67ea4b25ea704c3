"""Mixture-of-Experts language models in JAX.

Ten lines of use, from a config to a training step and a routing:

  >>> import jax, jax.numpy as jnp, moejax
  >>> flags = [('data.mixture', 'synthetic'), ('model.moe.router.k', '2')]
  >>> run = moejax.load('configs/tiny.py:tiny', flags)
  >>> model = moejax.build_model(run.model, moejax.make_mesh(run.mesh))
  >>> optimizer = moejax.make_optimizer(run.opt, run.train.steps, model.decays)
  >>> state = moejax.init_state(model, optimizer, jax.random.key(run.seed))
  >>> step = moejax.make_step(model, optimizer, run.opt, run.train, run.seed)
  >>> data = moejax.build_data(run.data, run.train.batch_size, run.seed)
  >>> state, metrics = step(state, data.train.batch(0))
  >>> print(f'loss {metrics["loss"]:.0f}')
  loss 9
  >>> logits_TE = jax.random.normal(jax.random.key(1), (4, 8))
  >>> tokens = {'valid_T': jnp.ones(4, bool), 'index_T': jnp.arange(4)}
  >>> known = moejax.RouterInput(logits_TE, **tokens, key=None, row_length=4)
  >>> routing = run.model.moe.router(known)
  >>> print(routing.expert_A.shape)  # two experts for each of four tokens
  (8,)

A whole run, with checkpoints, evaluation and a report, is
`moejax.train_run(run, workdir)`; `moejax train` does the same.

Every name in `__all__` is imported when it is first used, so `import moejax`
imports neither JAX nor Flax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from moejax.config import Run, load, shrink
  from moejax.core.errors import InputError
  from moejax.data.batch import Batch
  from moejax.data.build import Data
  from moejax.data.build import build as build_data
  from moejax.data.config import DataConfig
  from moejax.model.build import Model
  from moejax.model.build import build as build_model
  from moejax.model.config import ModelConfig
  from moejax.moe.balance import BALANCE
  from moejax.moe.balance.base import Balance
  from moejax.moe.config import MoEConfig
  from moejax.moe.contract import (
    Dispatcher,
    Router,
    RouterInput,
    Routing,
  )
  from moejax.moe.decide import route
  from moejax.moe.dispatchers import DISPATCHERS
  from moejax.moe.expert_parallel import EXPERT_PARALLEL
  from moejax.moe.expert_parallel.base import ExpertParallel
  from moejax.moe.experts import EXPERTS
  from moejax.moe.feed_forward import TokenInfo
  from moejax.moe.replay import Replay
  from moejax.moe.routers import ROUTERS
  from moejax.moe.routes import Routes, RoutesRequest
  from moejax.moe.scorers import SCORERS
  from moejax.moe.scorers.base import Scorer
  from moejax.parallel.mesh import MeshConfig
  from moejax.parallel.mesh import make as make_mesh
  from moejax.run.train import train as train_run
  from moejax.train.config import TrainConfig
  from moejax.train.optimizer import OptimizerConfig
  from moejax.train.optimizer import make as make_optimizer
  from moejax.train.state import State
  from moejax.train.state import init as init_state
  from moejax.train.step import make as make_step

__version__ = '0.1.0'

# Public name -> its module, and `:name` where it has another name there.
_HOMES = {
  'BALANCE': 'moejax.moe.balance',
  'Balance': 'moejax.moe.balance.base',
  'Batch': 'moejax.data.batch',
  'DISPATCHERS': 'moejax.moe.dispatchers',
  'Data': 'moejax.data.build',
  'DataConfig': 'moejax.data.config',
  'Dispatcher': 'moejax.moe.contract',
  'EXPERTS': 'moejax.moe.experts',
  'EXPERT_PARALLEL': 'moejax.moe.expert_parallel',
  'ExpertParallel': 'moejax.moe.expert_parallel.base',
  'InputError': 'moejax.core.errors',
  'MeshConfig': 'moejax.parallel.mesh',
  'MoEConfig': 'moejax.moe.config',
  'Model': 'moejax.model.build',
  'ModelConfig': 'moejax.model.config',
  'OptimizerConfig': 'moejax.train.optimizer',
  'ROUTERS': 'moejax.moe.routers',
  'Replay': 'moejax.moe.replay',
  'Router': 'moejax.moe.contract',
  'RouterInput': 'moejax.moe.contract',
  'Routes': 'moejax.moe.routes',
  'RoutesRequest': 'moejax.moe.routes',
  'Routing': 'moejax.moe.contract',
  'Run': 'moejax.config',
  'SCORERS': 'moejax.moe.scorers',
  'Scorer': 'moejax.moe.scorers.base',
  'State': 'moejax.train.state',
  'TokenInfo': 'moejax.moe.feed_forward',
  'TrainConfig': 'moejax.train.config',
  'build_data': 'moejax.data.build:build',
  'build_model': 'moejax.model.build:build',
  'init_state': 'moejax.train.state:init',
  'load': 'moejax.config',
  'make_mesh': 'moejax.parallel.mesh:make',
  'make_optimizer': 'moejax.train.optimizer:make',
  'make_step': 'moejax.train.step:make',
  'route': 'moejax.moe.decide',
  'shrink': 'moejax.config',
  'train_run': 'moejax.run.train:train',
}

__all__ = [
  'BALANCE',
  'DISPATCHERS',
  'EXPERTS',
  'EXPERT_PARALLEL',
  'ROUTERS',
  'SCORERS',
  'Balance',
  'Batch',
  'Data',
  'DataConfig',
  'Dispatcher',
  'ExpertParallel',
  'InputError',
  'MeshConfig',
  'MoEConfig',
  'Model',
  'ModelConfig',
  'OptimizerConfig',
  'Replay',
  'Router',
  'RouterInput',
  'Routes',
  'RoutesRequest',
  'Routing',
  'Run',
  'Scorer',
  'State',
  'TokenInfo',
  'TrainConfig',
  'build_data',
  'build_model',
  'init_state',
  'load',
  'make_mesh',
  'make_optimizer',
  'make_step',
  'route',
  'shrink',
  'train_run',
]


# Hidden from type checkers, which would take every name for a public one.
if not TYPE_CHECKING:

  def __getattr__(name: str) -> Any:
    """The public name, imported from its module (PEP 562)."""
    if name not in _HOMES:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, attribute = _HOMES[name].partition(':')
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
  """The public names, imported or not."""
  return sorted({*globals(), *__all__})
