"""An upcycled front end computes what the dense one did, where it must."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
from helpers import seeing, tiny, workdirs

from moejax.cli import convert
from moejax.convert import upcycle
from moejax.core import errors, trees
from moejax.model import build
from moejax.moe.config import MoEConfig
from moejax.moe.experts.shared import SharedExperts
from moejax.moe.routers import ROUTERS
from moejax.run import restore, upcycling
from moejax.vision import build as vision_build
from moejax.vision import front_end, projector
from moejax.vision.feed_forward import Mixture

ROOT = pathlib.Path(__file__).parents[2]
TOP_K = functools.partial(ROUTERS['top_k'], renormalise=True)
DENSE = dataclasses.replace(
  seeing.SIGHT,
  projector=projector.MLP(hidden_width=10, activation='quick_gelu'),
)


FFN = 'vision/encoder/layers/ffn'


def with_experts(encoder=None, connector=None):
  """The front end with experts of these settings."""
  vision = DENSE
  if encoder is not None:
    kind = Mixture(**{'num_experts': 3, 'router': TOP_K(k=2), **encoder})
    own = dataclasses.replace(vision.encoder, feed_forward=kind)
    vision = dataclasses.replace(vision, encoder=own)
  if connector is not None:
    base = {
      'num_experts': 3,
      'router': TOP_K(k=2),
      'activation': 'quick_gelu',
      'expert_width': 10,
    }
    kind = projector.Experts(**{**base, **connector})
    vision = dataclasses.replace(vision, projector=kind)
  return vision


@functools.cache
def dense():
  model = seeing.model(vision=DENSE)
  return model, tiny.weights(model)


@pytest.fixture(autouse=True)
def _drawn(monkeypatch):
  """Fresh weights are drawn by NumPy: by JAX they take seconds to compile."""
  draw = lambda self, _: tiny.draw(self.shapes, seed=5)
  monkeypatch.setattr(vision_build.Structure, 'init', draw)
  monkeypatch.setattr(build.Model, 'init', draw)


def embedded(model, weights):
  batch = seeing.batch()

  @jax.jit
  def run(weights):
    decoder = model.bind(weights)
    return decoder.vision(decoder.embed(batch.token_BL), batch.images)

  return np.asarray(run(weights))


@functools.cache
def wanted():
  return embedded(*dense())


def upcycled(vision, **how):
  model, weights = dense()
  new = dataclasses.replace(model.config, vision=vision)
  options = upcycle.Upcycling(**how)
  made = upcycle.upcycle(model.config, new, weights, options)
  return tiny.model(new), made


HALF = {
  'num_shared': 1,
  'shared': SharedExperts(weight=0.5),
  'router': TOP_K(k=2, scale=0.5),
}
TWO = {'num_shared': 2, 'router': TOP_K(k=2, scale=2.5)}


@pytest.mark.parametrize(
  ('vision', 'how'),
  [
    (with_experts(encoder={}, connector={}), {'rescale': False}),
    (with_experts(encoder=HALF, connector=HALF), {'rescale': False}),
    pytest.param(
      with_experts(encoder=TWO, connector=TWO), {}, marks=pytest.mark.soak
    ),
    pytest.param(with_experts(encoder={}), {}, marks=pytest.mark.soak),
    pytest.param(with_experts(connector={}), {}, marks=pytest.mark.soak),
  ],
  ids=['both', 'half shared', 'rescaled', 'encoder', 'projector'],
)
def test_it_computes_what_the_dense_one_did(vision, how):
  """Without a division where gates and shared weights sum to 1."""
  model, weights = upcycled(vision, **how)
  tiny_shapes = {p: x.shape for p, x in trees.leaves(model.shapes).items()}
  assert tiny_shapes == {p: x.shape for p, x in trees.leaves(weights).items()}
  np.testing.assert_allclose(embedded(model, weights), wanted(), 1e-4, 1e-5)


def test_every_expert_is_the_dense_feed_forward_and_the_rest_stays():
  _, weights = upcycled(with_experts(encoder={}, connector={}))
  old, new = (trees.leaves(x) for x in (dense()[1], weights))
  for path, dense_path in (
    ('encoder/layers/ffn/routed/w_in_EDF', 'encoder/layers/ffn/w_in_DF'),
    ('encoder/layers/ffn/routed/b_out_ED', 'encoder/layers/ffn/b_out_D'),
  ):
    for expert in range(3):
      np.testing.assert_array_equal(
        new[f'vision/{path}'][:, expert], old[f'vision/{dense_path}']
      )
  for expert in range(3):
    np.testing.assert_array_equal(
      new['vision/projector/ffn/routed/w_out_EFD'][expert],
      old['vision/projector/w_out_FD'],
    )
  changed = {p for p in old if p not in new}
  assert all('/ffn/' in p or 'projector' in p for p in changed)
  for path in old.keys() - changed:
    np.testing.assert_array_equal(new[path], old[path], path)


def test_noise_makes_copies_differ_and_leaves_biases_and_shared_ones():
  vision = with_experts(encoder=HALF)
  exact, noisy = (
    trees.leaves(upcycled(vision, noise=x, rescale=False)[1]) for x in (0, 0.1)
  )
  for path in exact:
    moved = not np.array_equal(exact[path], noisy[path])
    assert moved == path.startswith(f'{FFN}/routed/w_'), path
  name = f'{FFN}/routed/w_in_EDF'
  added = noisy[name] - exact[name]
  assert 0.09 < np.std(added) / np.std(exact[name]) < 0.11
  assert not np.array_equal(added[:, 0], added[:, 1])


def test_decoder_and_front_end_may_get_experts_at_once():
  """The decoder was dense, too."""
  model = seeing.model(vision=DENSE, moe={'num_experts': 0})
  moe = MoEConfig(num_experts=2, expert_width=12, router=TOP_K(k=2))
  vision = with_experts(encoder={})
  new = dataclasses.replace(model.config, vision=vision, moe=moe)
  weights = upcycle.upcycle(model.config, new, tiny.weights(model))
  found, shapes = trees.leaves(weights), trees.leaves(tiny.model(new).shapes)
  assert {p: x.shape for p, x in found.items()} == {
    p: x.shape for p, x in shapes.items()
  }


OTHER_LAYER = dataclasses.replace(with_experts(encoder={}), layers=(-1,))


@pytest.mark.parametrize(
  ('vision', 'message'),
  [
    (
      with_experts(encoder={'expert_width': 5}),
      r'encoder\.feed_forward\.expert_width=5: experts are copies of .* 12',
    ),
    (
      with_experts(connector={'expert_width': 0}),
      r'projector\.expert_width=16: experts are copies of .* width 10',
    ),
    (
      with_experts(connector={'activation': 'gelu'}),
      r'set experts\.name=as_dense and activation=quick_gelu',
    ),
    (
      with_experts(encoder={'shared': SharedExperts(gate=True)}),
      r'shared\.gate=false',
    ),
    (with_experts(encoder={'latent_width': 4}), r'latent_width=4: experts'),
    (OTHER_LAYER, r'model\.vision\.layers differs'),
  ],
)
def test_a_front_end_that_cannot_be_made_of_copies_is_refused(vision, message):
  with pytest.raises(errors.InputError, match=message):
    upcycled(vision)


def test_experts_that_are_there_already_are_refused():
  model, weights = upcycled(with_experts(encoder={}))
  other = with_experts(encoder={'num_experts': 4})
  new = dataclasses.replace(model.config, vision=other)
  with pytest.raises(errors.InputError, match='encoder has experts already'):
    upcycle.upcycle(model.config, new, weights)


def test_experts_of_a_config_file_take_the_dense_sizes():
  file = f'{ROOT}/configs/vision/libmoe.py:shared_v2'
  vision = upcycling.vision_of(dense()[0].config, file)
  assert vision.encoder.width == DENSE.encoder.width
  assert vision.encoder.feed_forward.num_experts == 5
  model, weights = upcycled(vision, rescale=False)
  np.testing.assert_allclose(embedded(model, weights), wanted(), 1e-4, 1e-5)


@pytest.mark.parametrize(
  ('vision', 'file', 'message'),
  [
    (
      front_end.TextOnly(),
      'vision/libmoe.py:smoe',
      'is for a model that reads images',
    ),
    (DENSE, 'tiny.py', r'has no experts in model\.vision'),
  ],
)
def test_experts_of_a_config_file_that_do_not_fit(vision, file, message):
  config = dataclasses.replace(dense()[0].config, vision=vision)
  with pytest.raises(errors.InputError, match=message):
    upcycling.vision_of(config, f'{ROOT}/configs/{file}')


@pytest.mark.soak
def test_the_command_makes_a_workdir(tmp_path, capsys, monkeypatch):
  """With routers that are drawn, and the decoder's experts as they were."""
  monkeypatch.undo()
  model = dense()[0]
  workdir = workdirs.make(tmp_path / 'dense', model.config)
  target, node = tmp_path / 'moe', '--config.model.vision'
  convert.main([
    'upcycle',
    f'--workdir={workdir}',
    f'--to={target}',
    f'{node}.encoder.feed_forward.name=experts',
    f'{node}.encoder.feed_forward.num_experts=3',
    f'{node}.encoder.feed_forward.router.k=2',
    f'{node}.encoder.feed_forward.routers_start_equal=true',
  ])
  assert '3 experts and 0 shared in the encoder.' in capsys.readouterr().out
  run = restore.run_of(str(target))
  made = tiny.model(run.model)
  weights, _ = restore.weights(made, str(target), print)
  ffn = weights['vision']['encoder']['layers']['ffn']
  w_NDE = np.asarray(ffn['router']['w_DE'])
  assert np.array_equal(w_NDE[0], w_NDE[1])
  assert 0.01 < np.std(w_NDE) < 0.03
  old = tiny.draw(model.shapes, seed=20)
  np.testing.assert_allclose(
    embedded(made, weights), embedded(model, old), 1e-4, 1e-5
  )
