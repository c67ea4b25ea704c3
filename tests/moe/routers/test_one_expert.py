"""Where a token has one expert, its weight still depends on the router."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe.feed_forwards import peer
from moejax.moe.routers import ROUTERS, noisy_top_k, scores

NUM_EXPERTS = 4
# All that a config could say, beside one expert for each token.
SETTINGS = {
  'score': sorted(scores.SCORES),
  'renormalise': [False, True],
  'after': [False, True],
  'noise': [noisy_top_k.Learned(), noisy_top_k.Fixed()],
  'num_null': [0, 1],
  'r': [1.0],  # of sparse_mixer: some logits are near the largest
}
ONE = ('k', 'k_outer', 'k_inner')


def _settings(name):
  """Every router of a class that sends a token to one expert, if it can."""
  fields = {f.name for f in dataclasses.fields(ROUTERS[name])}
  one = dict.fromkeys(fields & {*ONE}, 1)
  varied = [key for key in SETTINGS if key in fields]
  for values in itertools.product(*(SETTINGS[key] for key in varied)):
    yield ROUTERS[name](**one, **dict(zip(varied, values, strict=True)))


def _slope(router, compiles):
  """The largest derivative of the sum of all squared weights by any score.

  One router is quickest as one program; several with different settings have
  most operations in common, and each operation is compiled once.
  """
  rng = np.random.default_rng(0)
  extra = router.extra_scorers(NUM_EXPERTS)
  logits = {
    head: jnp.asarray(rng.normal(size=(8, size)), jnp.float32)
    for head, (_, size) in extra.items()
  }
  size = router.num_logits(NUM_EXPERTS)
  logits[''] = jnp.asarray(rng.normal(size=(8, size)), jnp.float32)

  def total(logits):
    given = tiny.router_input(logits[''])
    given = dataclasses.replace(given, token_T=jnp.arange(8))
    more = {name: logits[name] for name in extra}
    given = dataclasses.replace(given, extra_scores=more)
    weight_A = router(given).weight_A
    return jnp.sum(weight_A**2)

  slopes = jax.grad(total)
  if compiles:
    slopes = jax.jit(slopes)
  return max(float(np.abs(x).max()) for x in slopes(logits).values())


def _accepts(router):
  try:
    router.check(NUM_EXPERTS)
  except errors.InputError as error:
    if 'gives every token the weight 1' not in str(error):
      raise
    return False
  return True


def _is_asked(cls):
  """Whether it can send a token to one expert and learns; heirs are left out.

  A router that inherits from another one has the checks of that.
  """
  has_k = any(field.name in ONE for field in dataclasses.fields(cls))
  is_heir = cls.__base__ in ROUTERS.values()
  return has_k and cls.is_learned and not is_heir


@pytest.mark.parametrize(
  'name', sorted(name for name, cls in ROUTERS.items() if _is_asked(cls))
)
def test_a_router_is_trained_or_refused(name):
  settings = [*_settings(name)]
  for router in settings:
    slope = _slope(router, compiles=len(settings) == 1)
    if _accepts(router):
      assert slope > 1e-4, router
    else:
      assert slope < 1e-6, router  # not refused for nothing


def test_what_to_set_is_said():
  with pytest.raises(errors.InputError) as e:
    ROUTERS['top_k'](k=1, renormalise=True).check(NUM_EXPERTS)
  assert str(e.value) == (
    'router.renormalise=True with router.k=1 gives every token the weight 1, '
    'whatever the router says, so the router would not be trained; set '
    'router.renormalise=false, or a larger k'
  )


def test_peer_too_weighs_one_expert_by_its_score():
  peer.PEERConfig(k=1, score='sigmoid').check()
  with pytest.raises(errors.InputError, match='k=1 with score=softm'):
    peer.PEERConfig(k=1).check()
