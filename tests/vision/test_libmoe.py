"""LibMoE's vision layers compute what their formulas say, token by token.

The formulas are written out here in NumPy, from the description of its code.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers import vision_experts as slow

from moejax import config
from moejax.plan import count
from moejax.vision.feed_forward import Sizes
from moejax.vision.inputs import ImageContext

FILE = pathlib.Path(__file__).parents[2] / 'configs' / 'vision' / 'libmoe.py'
D, F, E, K = 8, 6, 6, 3
SIZES = Sizes(D, F, D, 'gelu_tanh', 0.02)
IMAGES, TOKENS = 2, 5
X_BND = np.random.default_rng(1).normal(size=(IMAGES, TOKENS, D))
X_BND = X_BND.astype(np.float32)


@functools.cache
def kind_of(name):
  run = config.load(f'{FILE}:{name}')
  return run.model.vision.encoder.feed_forward


@pytest.fixture(scope='module')
def computed():
  """Weights, output and losses of a layer by each algorithm: one program."""
  mesh, layers = tiny.mesh(), {}
  for name in NAMES:
    make = functools.partial(kind_of(name).module, SIZES, mesh)
    layers[name] = tiny.module(lambda make=make: make(jax.random.key(0)))
  tokens = ImageContext.of(IMAGES).tokens(TOKENS)

  @jax.jit
  def run(weights):
    results = {}
    for name, w in weights.items():
      kind, module = kind_of(name), tiny.bind(layers[name][0], w)
      before = kind.no_previous_layer(IMAGES, TOKENS)
      out, _, record = kind.apply(module, X_BND, tokens, before, None, 0)
      sums = jax.tree.map(lambda x: x[None], record.balance)
      results[name] = out, kind.losses(sums)[1]
    return results

  weights = {name: w for name, (_, w) in layers.items()}
  return weights, jax.device_get(run(weights))


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def largest(p, k):
  return np.argsort(-p, kind='stable')[:k]


def expert(w, e, x_D):
  return slow.mlp(w['routed'], e, x_D, slow.gelu_tanh)


def linear(w, x_D):
  return x_D @ w['router']['w_DE']


def mixed(w, x_D, gates):
  """The weighted sum of experts, {expert: gate}."""
  return sum(g * expert(w, e, x_D) for e, g in gates.items())


def over_their_sum(p, k):
  chosen = largest(p, k)
  return {e: p[e] / p[chosen].sum() for e in chosen}


# Each returns the output for one token, and its logits.


def smoe(w, x_D):
  logits = linear(w, x_D)
  return mixed(w, x_D, over_their_sum(slow.softmax(logits), K)), logits


def sigma(w, x_D):
  logits = linear(w, x_D)
  return mixed(w, x_D, over_their_sum(sigmoid(logits), K)), logits


def xmoe(w, x_D):
  low = x_D @ w['router']['w_DZ']
  rows = w['router']['w_EZ']
  rows = 1.5 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
  logits = rows @ (low / np.linalg.norm(low)) / 0.3
  p = slow.softmax(logits)
  chosen = largest(p, K)
  gates = slow.softmax(p[chosen])
  return mixed(w, x_D, dict(zip(chosen, gates, strict=True))), logits


def shared(score):
  def layer(w, x_D):
    logits = linear(w, x_D)
    routed = mixed(w, x_D, over_their_sum(score(logits), K - 1))
    own = slow.mlp(w['shared'], 0, x_D, slow.gelu_tanh)
    return 0.5 * own + 0.5 * routed, logits

  return layer


def moe_pp(w, x_D):
  """Choice 6 mixes the token with a constant, choice 7 gives nothing."""
  logits = linear(w, x_D)
  out = np.zeros(D)
  for choice, gate in over_their_sum(slow.softmax(logits), K).items():
    if choice < E:
      out = out + gate * expert(w, choice, x_D)
    if choice == E:
      a = slow.softmax(x_D @ w['zero']['w_CD2'][0])
      out = out + gate * (a[0] * x_D + a[1] * w['zero']['v_CD'][0])
  return out, logits


def tc_moe(w, x_D):
  """Choices 0-5 add an expert, 6-11 subtract it, 12-14 are null."""
  logits = linear(w, x_D)
  p = slow.softmax(logits + np.repeat([0.0, -1.0, -10.0], [E, E, 3]))
  chosen = largest(p, K)
  real = [c for c in chosen if c < 2 * E]
  total = p[real].sum() + p[2 * E :].sum()
  out = np.zeros(D)
  for c in real:
    out = out + (1 if c < E else -1) * p[c] / total * expert(w, c % E, x_D)
  return out, logits


LAYERS = {
  'smoe': smoe,
  'sigma': sigma,
  'xmoe': xmoe,
  'shared_v2': shared(slow.softmax),
  'shared_v3': shared(sigmoid),
  'moe_pp': moe_pp,
  'tc_moe': tc_moe,
}


NAMES = [*LAYERS]


def slowly(name, w):
  """Outputs and logits of all tokens."""
  one = lambda x_D: LAYERS[name](w, x_D.astype(np.float64))
  results = [[one(x_D) for x_D in x_ND] for x_ND in X_BND]
  split = zip(*[zip(*row, strict=True) for row in results], strict=True)
  return [np.array(x) for x in split]


@pytest.mark.parametrize('name', NAMES)
def test_a_layer_computes_the_algorithm(computed, name):
  weights, found = computed
  wanted, _ = slowly(name, weights[name])
  assert np.std(wanted) > 0.1
  np.testing.assert_allclose(found[name][0], wanted, 1e-4, 1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_losses_are_those_of_first_choices_and_logits(computed, name):
  """E^2 mean_e(P_e f_e) of each image, f of first choices; logsumexp^2."""
  weights, found = computed
  _, logits_BNC = slowly(name, weights[name])
  losses = found[name][1]
  z = np.log(np.exp(logits_BNC).sum(-1))
  np.testing.assert_allclose(losses['z_loss'], 0.001 * np.mean(z**2), 1e-4)
  if name == 'tc_moe':  # has a loss of its own
    assert losses.keys() == {'tc_moe', 'z_loss'}
    return
  num = logits_BNC.shape[-1]
  assert num == {'moe_pp': 8, 'shared_v2': 5, 'shared_v3': 5}.get(name, 6)
  of_images = []
  for logits_NE in logits_BNC:
    p_NE = np.array([slow.softmax(x) for x in logits_NE])
    f_E = np.bincount(p_NE.argmax(1), minlength=num) / TOKENS
    of_images.append(num**2 * np.mean(p_NE.mean(0) * f_E))
  np.testing.assert_allclose(
    losses['first_choice'], 0.01 * np.mean(of_images), 1e-4
  )


@pytest.mark.parametrize('name', NAMES)
def test_a_config_holds_together(name):
  model = config.load(f'{FILE}:{name}').model
  model.check()
  model.check_used()
  assert model.vision.projector.num_experts == kind_of(name).num_experts


@pytest.mark.soak
def test_sizes_are_those_that_are_printed():
  """1.75B of the encoder and 3.82B of the decoder (arXiv 2411.00918)."""
  total = count.count(config.load(f'{FILE}:smoe').model).total_of
  vision = total['vision encoder'], total['vision projector']
  assert vision == (1_752_081_696, 77_900_544)
  assert sum(total.values()) - sum(vision) == 3_821_079_552
