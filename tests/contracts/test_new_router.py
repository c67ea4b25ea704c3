"""Adding a router takes one class and one line; nothing else knows of it."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from helpers import config_text

from moejax import config
from moejax.model import build
from moejax.moe import contract
from moejax.moe.routers import ROUTERS
from moejax.parallel import mesh as meshes

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class LastK(contract.Router):
  """The k least probable experts, all with the same weight."""

  k: int = 1
  weight: float = 0.5

  @property
  def experts_per_token(self):
    return self.k

  def __call__(self, inputs):
    prob_TE = jax.nn.softmax(inputs.logits_TE)
    _, expert_TK = jax.lax.top_k(-prob_TE, self.k)
    weight_TK = jnp.full(expert_TK.shape, self.weight)
    return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)


def test_a_line_in_the_table_is_all_that_a_router_needs(monkeypatch):
  monkeypatch.setitem(ROUTERS, 'last_k', LastK)
  run = config.load(
    f'{ROOT}/configs/tiny.py:tiny',
    [('model.moe.router', 'last_k'), ('model.moe.router.weight', '0.25')],
  )
  assert run.model.moe.router == LastK(k=1, weight=0.25)
  assert 'model.moe.router.name = "last_k"' in config_text.to_text(run)
  mesh = meshes.make(run.mesh, jax.devices()[:1])
  model = build.build(run.model, mesh)
  weights = model.init(jax.random.key(0))
  token_BL = jnp.arange(1, 33).reshape(2, 16)
  one_BL = jnp.ones_like(token_BL)
  position_BL = jnp.tile(jnp.arange(16), (2, 1))
  out = model.bind(weights)(token_BL, one_BL, position_BL)
  assert np.all(np.isfinite(out.x_BLD))
  # One expert a token in each of the two layers.
  count_NE = np.asarray(out.record.stats['count_E'].value())
  np.testing.assert_array_equal(count_NE.sum(axis=1), [32, 32])
