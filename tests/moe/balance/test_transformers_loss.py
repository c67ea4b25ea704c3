"""The balance loss of transformers' Mixtral and its kin, and who has it.

Two numbers are of `load_balancing_loss_func` of transformers 5.24; the loops
are its formula, written out.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax import config
from moejax.convert.families import FAMILIES, family
from moejax.core import errors
from moejax.moe import balance
from moejax.moe.balance.load import ExpertLevel
from moejax.moe.balance.switch import SwitchLoss
from moejax.moe.routers import ROUTERS
from moejax.moe.routers.top_k import TopK

ZOO = str(pathlib.Path(__file__).parents[3] / 'configs' / 'zoo.py')
# What the releases, or else their classes, have for router_aux_loss_coef.
PUBLISHED = {
  'mixtral': 0.02,
  'olmoe': 0.01,
  'qwen2_moe': 0.001,
  'qwen3': 0.001,
  'qwen3_next': 0.001,
  'gpt_oss': 0.001,
}
FAMILY_OF = {'qwen3': 'qwen3_moe', 'qwen3_next': 'qwen3_moe'}


def waves(layers, tokens, experts):
  """Logits that any program can make again."""
  place = np.meshgrid(*map(np.arange, (layers, tokens, experts)), indexing='ij')
  n, t, e = place
  return 2 * np.sin(1 + 3 * n + 5 * t + 7 * e + n * t * e)


def formula(logits_NTE, k, valid_T):
  """E sum_e f_e P_e; f_e and P_e over the tokens of all layers, one by one."""
  num_experts = logits_NTE.shape[2]
  f_E, p_E, rows = [0.0] * num_experts, [0.0] * num_experts, 0
  for logits_TE in logits_NTE:
    for logits_E, valid in zip(logits_TE, valid_T, strict=True):
      if valid:
        rows += 1
        for e, p in enumerate(references.softmax(list(logits_E))):
          p_E[e] += p
        for e in references.top(list(logits_E), k):
          f_E[e] += 1
  return num_experts * sum(
    f * p / rows**2 for f, p in zip(f_E, p_E, strict=True)
  )


def total(parts, router, logits_NTE, valid_T, bias_E=None):
  """All losses of a model whose layers route by these logits."""
  logits_NTE = np.asarray(logits_NTE, np.float32)
  return float(_total(parts, router, logits_NTE, valid_T, bias_E))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _total(parts, router, logits_NTE, valid_T, bias_E):
  def observe(logits_TE):
    given = tiny.router_input(
      logits_TE, valid_T=valid_T, selection_bias_E=bias_E
    )
    return balance.observe(parts, given, router(given), {})

  return balance.total(parts, jax.lax.map(observe, logits_NTE))[0]


@pytest.mark.parametrize(
  ('valid', 'want'),
  [([1, 1, 1, 1, 1, 1], 2.0397007), ([1, 1, 1, 1, 1, 0], 2.0497098)],
)
def test_the_loss_is_the_number_that_transformers_computes(valid, want):
  logits_NTE, valid_T = waves(3, 6, 5), np.array(valid, bool)
  part = SwitchLoss(1.0, 'multi_hot', 'together')
  got = total((part,), TopK(k=2), logits_NTE, valid_T)
  assert got == pytest.approx(want, rel=1e-6)
  assert formula(logits_NTE, 2, valid_T) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize('name', PUBLISHED)
def test_an_entry_has_the_loss_that_its_coefficient_was_published_for(name):
  """Of random logits in the entry's own number of layers, with padding."""
  model = config.load(f'{ZOO}:{name}').model
  moe = model.moe
  rng = np.random.default_rng(0)
  shape = (model.num_layers, 40, moe.num_experts)
  logits_NTE = rng.normal(size=shape) + rng.normal(size=shape[::2])[:, None]
  valid_T = np.arange(40) < 33
  parts = tuple(part for part in moe.balance if isinstance(part, SwitchLoss))
  got = total(parts, moe.router, logits_NTE, valid_T)
  want = PUBLISHED[name] * formula(logits_NTE, moe.router.k, valid_T)
  assert got == pytest.approx(want, rel=1e-5)
  others = [part for part in moe.balance if part not in parts]
  assert [type(part).__name__ for part in others] == (
    ['ZLoss'] if name == 'olmoe' else []
  )


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_family_that_is_read_has_the_loss_of_its_class(name):
  keys = FAMILIES[FAMILY_OF.get(name, name)].keys
  for part in family.aux_loss(PUBLISHED[name]):
    assert part in keys


def test_a_router_with_bias_and_sigmoids_has_the_loss_of_its_logits():
  """As MiniMax-M2's class: neither moves what the loss sees."""
  logits_NTE, valid_T = waves(3, 6, 5), np.arange(6) < 5
  bias_E = np.array([0, 0, 0, 0, 5], np.float32)
  router = TopK(k=2, score='sigmoid', renormalise=True)
  of = lambda form: total(
    (SwitchLoss(1.0, form, 'together'),), router, logits_NTE, valid_T, bias_E
  )
  want = formula(logits_NTE, 2, valid_T)
  assert of('of_logits') == pytest.approx(want, rel=1e-5)
  assert of('multi_hot') != pytest.approx(want, rel=1e-2)
  given = tiny.router_input(logits_NTE[0])
  routing = ROUTERS['expert_choice']()(given)
  with pytest.raises(errors.InputError, match='or form=multi_hot'):
    SwitchLoss(1.0, 'of_logits').observe(given, routing)


def test_a_loss_for_each_layer_is_as_strong_where_layers_route_alike():
  """alpha = coefficient k / layers: for Mixtral of the zoo 0.02 * 2 / 4."""
  logits_NTE = np.tile(waves(1, 6, 5), (4, 1, 1))
  valid_T = np.ones(6, bool)
  each = total((ExpertLevel(0.01),), TopK(k=2), logits_NTE, valid_T)
  together = SwitchLoss(0.02, 'multi_hot', 'together')
  joined = total((together,), TopK(k=2), logits_NTE, valid_T)
  assert each == pytest.approx(joined, rel=1e-6)
  # Layers that make up for each other's imbalance are balanced together only.
  turned = np.stack([9 * np.eye(4)[[n] * 6] for n in (0, 1)])
  one = total((ExpertLevel(0.5),), TopK(k=1), turned, valid_T)
  both = total(
    (SwitchLoss(1.0, 'multi_hot', 'together'),), TopK(k=1), turned, valid_T
  )
  assert one == pytest.approx(4, rel=1e-2)
  assert both == pytest.approx(2, rel=1e-2)


def test_the_loss_of_all_layers_is_reported_once():
  parts = (SwitchLoss(1.0, 'multi_hot', 'together'), ExpertLevel(1.0))
  given = tiny.router_input(waves(1, 6, 5)[0])
  one = balance.observe(parts, given, TopK(k=2)(given), {})
  sums = jax.tree.map(lambda x: jnp.stack([x, x, x]), one)
  loss, by_name = balance.total(parts, sums)
  assert float(by_name['switch']) == pytest.approx(
    2 * float(by_name['expert_level']), rel=1e-6
  )
  assert float(loss) == pytest.approx(
    float(by_name['switch'] + 3 * by_name['expert_level']), rel=1e-6
  )
