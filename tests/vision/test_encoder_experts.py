"""Layers of an encoder with experts compute what mathematics says of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import seeing, tiny
from helpers import vision_experts as slow

from moejax.core import errors
from moejax.moe.balance import BALANCE
from moejax.moe.experts import EXPERTS as EXPERT_KINDS
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS
from moejax.parallel import hosts
from moejax.vision import build, projector
from moejax.vision.config import VisionConfig
from moejax.vision.feed_forward import Mixture, Sizes
from moejax.vision.inputs import ImageContext

K = 2
EXPERTS = Mixture(num_experts=3, router=ROUTERS['top_k'](k=K, renormalise=True))
DENSE = VisionConfig(
  image_size=4,
  patch_size=2,
  width=8,
  num_layers=3,
  num_heads=2,
  hidden_width=6,
  pooling='none',
)
IMAGE_BHWC = np.random.default_rng(0).normal(size=(3, 4, 4, 3))
IMAGE_BHWC = IMAGE_BHWC.astype(np.float32)


def made(feed_forward=EXPERTS, **changes):
  config = dataclasses.replace(DENSE, feed_forward=feed_forward, **changes)
  return build.encoder(config, tiny.mesh())


def read(of, weights, image_BHWC, valid_X):
  context = ImageContext(jnp.asarray(valid_X), jnp.arange(len(valid_X)))
  return of.bind(weights).read(image_BHWC, context)


@pytest.fixture(scope='module')
def seen():
  """An encoder with experts, its weights, and what it reads."""
  of = made()
  weights = tiny.draw(of.shapes)
  run = jax.jit(lambda w, x, valid_X: read(of, w, x, valid_X))
  return of, weights, run


def test_experts_that_are_copies_are_the_dense_encoder(seen):
  of, weights, run = seen
  dense = made(DENSE.feed_forward)
  old = tiny.draw(dense.shapes)
  new = slow.copies(old, weights, layers=1)
  found, _ = run(new, IMAGE_BHWC, np.ones(3, bool))
  wanted = jax.jit(lambda w: dense.bind(w).features(IMAGE_BHWC))(old)
  np.testing.assert_allclose(found, wanted, 1e-5, 1e-5)


@pytest.mark.parametrize('out', [8, 5])
def test_a_layer_is_the_mathematics_of_its_experts(out):
  """Also where the output has another width, as in a projector."""
  sizes = Sizes(8, 6, out, 'quick_gelu', 0.02)
  mesh = tiny.mesh()
  kind = dataclasses.replace(EXPERTS, num_shared=1)
  graph, w = tiny.module(lambda: kind.module(sizes, mesh, jax.random.key(0)))
  x_BND = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
  tokens = ImageContext.of(2).tokens(3)

  @jax.jit
  def run(w, x_BND):
    before = kind.no_previous_layer(2, 3)
    module = tiny.bind(graph, w)
    return kind.apply(module, x_BND, tokens, before, None, 0)[0]

  found = np.asarray(run(w, x_BND))
  assert found.shape == (2, 3, out)
  for place in np.ndindex(2, 3):
    x_D = x_BND[place].astype(np.float64)
    wanted = slow.smoe(w, x_D, K, slow.quick_gelu)
    wanted = wanted + slow.mlp(w['shared'], 0, x_D, slow.quick_gelu)
    np.testing.assert_allclose(found[place], wanted, 1e-4, 1e-5)


def test_layers_behind_the_one_that_is_read_have_no_record(seen):
  """Layer -2 of three is the second."""
  _, weights, run = seen
  _, record = run(weights, IMAGE_BHWC, np.ones(3, bool))
  assert record.stats['count_E'].total.shape == (2, 3)
  # Three images of four patches, two experts each.
  np.testing.assert_array_equal(record.stats['count_E'].total.sum(1), 24)


def test_images_that_pad_a_row_are_not_counted(seen):
  _, weights, run = seen
  padded_BHWC = IMAGE_BHWC.copy()
  padded_BHWC[1] = 0
  _, record = run(weights, padded_BHWC, np.array([True, False, True]))
  other_BHWC = padded_BHWC.copy()
  other_BHWC[1] = 7 * IMAGE_BHWC[1]
  _, same = run(weights, other_BHWC, np.array([True, False, True]))
  np.testing.assert_array_equal(record.stats['count_E'].total.sum(1), 16)
  tiny.assert_close(record.balance, same.balance)


def test_routers_may_start_equal(seen):
  of, weights, _ = seen
  equal = dataclasses.replace(EXPERTS, routers_start_equal=True)
  for kind, wanted in ((EXPERTS, False), (equal, True)):
    stack = of.bind(weights).layers.ffn
    kind.begin(stack)
    w_NDE = np.asarray(stack.router['w_DE'][...])
    assert np.ptp(w_NDE) > 0
    assert np.array_equal(w_NDE[0], w_NDE[2]) == wanted
    w_in = np.asarray(stack.routed['w_in_EDF'][...])
    assert not np.array_equal(w_in[0], w_in[2])


@pytest.mark.soak
def test_an_encoder_starts_with_equal_routers():
  of = made(dataclasses.replace(EXPERTS, routers_start_equal=True))
  ffn = of.init(jax.random.key(0))['layers']['ffn']
  w_NDE, w_in = ffn['router']['w_DE'], ffn['routed']['w_in_EDF']
  assert np.array_equal(w_NDE[0], w_NDE[1])
  assert not np.array_equal(w_in[0], w_in[1])
  assert 0.01 < np.std(w_NDE) < 0.03


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'router': ROUTERS['hash']()}, r'feed_forward\.router=hash chooses .* by'),
    ({'router': ROUTERS['stable_moe']()}, r'feed_forward\.router=stable_moe'),
    (
      {'scorer': SCORERS['token_embedding']()},
      r'feed_forward\.scorer=token_embedding chooses .* vocabulary ids',
    ),
    (
      {'router': ROUTERS['top_k'](k=4)},
      r'feed_forward\.router\.k=4 experts per token, but there are 3',
    ),
    (
      {'balance': (BALANCE['weighted'](num_zero=1),)},
      r'feed_forward\.balance\.weighted\.num_zero=1, but zero_computation',
    ),
    ({'experts_by_layer': (3, 2)}, r'experts_by_layer=\(3, 2\): the layers'),
  ],
)
def test_experts_that_images_cannot_have_are_refused(changes, message):
  feed_forward = dataclasses.replace(EXPERTS, **changes)
  with pytest.raises(errors.InputError, match=message):
    dataclasses.replace(DENSE, feed_forward=feed_forward).check()


def test_every_router_that_reads_no_ids_routes_patches():
  """Those in which experts choose, too: all patches are there at once."""
  context = ImageContext.of(3)
  for name, router in ROUTERS.items():
    kind = dataclasses.replace(EXPERTS, num_experts=8, router=router())
    config = dataclasses.replace(DENSE, feed_forward=kind)
    if name in {'hash', 'balanced_hash', 'hash_first', 'stable_moe'}:
      with pytest.raises(errors.InputError, match='vocabulary ids'):
        config.check()
      continue
    kind = dataclasses.replace(kind, balance=())
    of = made(kind)
    out, record = jax.eval_shape(
      lambda w, of=of: of.bind(w).read(IMAGE_BHWC, context), of.shapes
    )
    assert out.shape == (3, 4, 8), name
    assert record.stats, name


WHERE = r'model\.vision\.encoder\.feed_forward'


@pytest.mark.parametrize(
  ('of_encoder', 'of_projector', 'message'),
  [
    ({}, None, rf'^mesh\.expert=2 does not divide {WHERE}\.num_experts=3'),
    (
      {'num_experts': 4},
      {'num_experts': 4, 'zero_computation': ZeroComputation(copy=1)},
      r'^model\.vision\.projector\.zero_computation has 1 copies',
    ),
    (
      None,
      {'num_experts': 4, 'experts': EXPERT_KINDS['swiglu']()},
      r'^model\.vision\.projector\.experts=swiglu have one width before',
    ),
    (
      None,
      {'num_experts': 4, 'latent_width': 4},
      r'^model\.vision\.projector\.experts of input 8 and output 16 have two',
    ),
  ],
)
def test_what_the_mesh_or_the_widths_exclude_is_one_line(
  of_encoder, of_projector, message
):
  """Errors name the keys of the part that they are about."""
  vision = seeing.SIGHT
  if of_encoder is not None:
    kind = dataclasses.replace(EXPERTS, **of_encoder)
    encoder = dataclasses.replace(vision.encoder, feed_forward=kind)
    vision = dataclasses.replace(vision, encoder=encoder)
  if of_projector is not None:
    connector = projector.Experts(**of_projector)
    vision = dataclasses.replace(vision, projector=connector)
  with pytest.raises(errors.InputError, match=message):
    seeing.model(tiny.mesh(2, data=1, expert=2), vision)


def test_a_router_that_adds_the_token_itself_cannot_change_the_width():
  connector = projector.Experts(
    num_experts=4, router=ROUTERS['base_layer'](interpolates=True), balance=()
  )
  vision = dataclasses.replace(seeing.SIGHT, projector=connector)
  model, batch = seeing.model(vision=vision), seeing.batch()
  with pytest.raises(
    errors.InputError,
    match=r'^model\.vision\.projector\.router=base_layer adds the token itself',
  ):
    jax.eval_shape(
      lambda w: model.bind(w).vision(jnp.zeros((4, 12, 16)), batch.images),
      model.shapes,
    )


@pytest.mark.soak
def test_a_mesh_changes_nothing():
  """Rows are split over four devices, experts over two."""
  kind = dataclasses.replace(EXPERTS, num_experts=4)
  encoder = dataclasses.replace(seeing.SIGHT.encoder, feed_forward=kind)
  connector = projector.Experts(num_experts=4, num_shared=1)
  vision = dataclasses.replace(
    seeing.SIGHT, encoder=encoder, projector=connector
  )
  results = []
  for mesh in (tiny.mesh(), tiny.mesh(4, data=2, expert=2)):
    model = seeing.model(mesh, vision)
    weights, batch = tiny.weights(model), hosts.put_rows(seeing.batch(), mesh)

    @jax.jit
    def run(weights, batch, model=model):
      decoder = model.bind(weights)
      x_BLD = decoder.embed(batch.token_BL)
      return decoder.vision.read(x_BLD, batch.images)

    results.append(jax.device_get(run(weights, batch)))
  (one, records), (other, same) = results
  np.testing.assert_allclose(other, one, 1e-4, 1e-5)
  for part in ('encoder', 'projector'):
    tiny.assert_close(same[part].balance, records[part].balance, 1e-4, 1e-5)
