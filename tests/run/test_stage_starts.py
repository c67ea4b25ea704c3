"""The weights with which a stage begins: of several runs, and fresh ones."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath
from helpers import seeing, tiny, workdirs

from moejax.config import Run
from moejax.core import errors, trees
from moejax.data.config import DataConfig
from moejax.model import build
from moejax.run import restore, stage_starts
from moejax.vision import feed_forward, front_end, projector

WORDS = tiny.model_config(num_layers=2, first_dense=0)
BOTH = dataclasses.replace(WORDS, vision=seeing.SIGHT)
# Another decoder: one layer less, and another vocabulary.
EYES = dataclasses.replace(BOTH, num_layers=1, vocab_size=48)
EXPERTS = dataclasses.replace(
  seeing.SIGHT,
  encoder=dataclasses.replace(
    seeing.SIGHT.encoder, feed_forward=feed_forward.FEED_FORWARDS['experts']()
  ),
  projector=projector.PROJECTORS['experts'](),
)
DATA = DataConfig(mixture='synthetic', vocab=workdirs.BYTES, sequence_length=16)
RUN = Run(model=BOTH, data=DATA, seed=3)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp('stages')
  words = workdirs.make(folder / 'words', WORDS, seed=1)
  eyes = workdirs.make(folder / 'eyes', EYES, seed=2)
  return {str(words): '*', str(eyes): 'vision/encoder'}


def drawn(config, seed):
  shapes = build.build(config, tiny.mesh()).shapes
  return trees.leaves(tiny.draw(shapes, seed=seed))


def read(workdir):
  model = build.build(restore.run_of(str(workdir)).model, tiny.mesh())
  weights, step = restore.weights(model, str(workdir), print)
  assert step == 0
  return trees.leaves(weights)


@pytest.fixture(scope='module')
def joined(sources, tmp_path_factory):
  to = epath.Path(tmp_path_factory.mktemp('joined') / 'both')
  stage_starts.join(RUN, sources, to, lambda _: None)
  return to


def test_each_weight_is_that_of_its_source(joined):
  """The newest checkpoints are those of step 20."""
  new = read(joined)
  words, eyes = drawn(WORDS, 1 + 20), drawn(EYES, 2 + 20)
  fresh = trees.leaves(build.build(BOTH, tiny.mesh()).init(jax.random.key(3)))
  assert new.keys() == fresh.keys()
  for path, w in new.items():
    wanted = fresh[path]
    if path.startswith('vision/encoder/'):
      wanted = eyes[path]
    elif not path.startswith('vision/'):
      wanted = words[path]
    np.testing.assert_array_equal(w, wanted, err_msg=path)
  assert any(path.startswith('vision/projector/') for path in new)


def test_its_config_is_that_of_the_stage_without_a_start(joined):
  run = restore.run_of(str(joined))
  assert (run.model, run.seed, run.start) == (BOTH, 3, '')


def test_it_is_made_once_and_a_part_of_one_anew(joined, sources, tmp_path):
  said = []
  stage_starts.join(RUN, sources, joined, said.append)
  assert said == []
  part = epath.Path(tmp_path / 'both')
  (part / 'checkpoints' / '0').mkdir(parents=True)
  (part / 'checkpoints' / '0' / 'half').write_text('x')
  stage_starts.join(RUN, sources, part, said.append)
  assert len(said) == 2
  assert not (part / 'checkpoints' / '0' / 'half').exists()
  again = read(part)
  for path, w in read(joined).items():
    np.testing.assert_array_equal(again[path], w)


@pytest.mark.parametrize(
  ('paths', 'message'),
  [
    (('*', 'vision/encoders'), "none in common that 'vision/encoders' names"),
    (('*', 'vision/encoder,norm'), 'both have the weight norm/scale_D: take'),
    (('moe', 'embed_VD'), r'embed_VD of .* the shape \(48, 16\), and \(64, 16'),
  ],
)
def test_weights_that_do_not_fit_are_refused(paths, message, sources, tmp_path):
  asked = dict(zip(sources, paths, strict=True))
  to = epath.Path(tmp_path / 'both')
  with pytest.raises(errors.InputError, match=message):
    stage_starts.join(RUN, asked, to, lambda _: None)
  assert not (to / 'config.json').exists()


def test_a_decoder_alone_has_no_encoder_to_give(sources, tmp_path):
  words = next(iter(sources))
  with pytest.raises(errors.InputError, match='vision/encoder'):
    stage_starts.join(
      RUN, {words: 'vision/encoder'}, epath.Path(tmp_path / 'x'), print
    )
  assert isinstance(WORDS.vision, front_end.TextOnly)


def test_experts_are_copies_of_the_feed_forwards_of_the_stage_before(
  sources, tmp_path
):
  eyes = [*sources][1]
  said = []
  to = epath.Path(tmp_path / 'experts')
  run = Run(model=dataclasses.replace(EYES, vision=EXPERTS), data=DATA)
  for _ in range(2):  # the second time it is there
    stage_starts.upcycle(run, eyes, to, said.append)
  assert len(said) == 1
  old, new = drawn(EYES, 2 + 20), read(to)
  # Biases, which have an axis for experts too, are copied as the matrices are.
  names = {'w_in_EDF': 'w_in_DF', 'w_out_EFD': 'w_out_FD'}
  names |= {'b_in_EF': 'b_in_F', 'b_out_ED': 'b_out_D'}
  copies = 0
  for path, w in new.items():
    place, _, name = path.rpartition('/')
    if place.endswith('/routed') and place.startswith('vision/'):
      place = place.removesuffix('/routed')
      if place.startswith('vision/projector'):
        place, axis = place.removesuffix('/ffn'), 0
      else:
        axis = 1  # behind that of layers
      dense = np.expand_dims(old[f'{place}/{names[name]}'], axis)
      np.testing.assert_array_equal(w, np.repeat(dense, 6, axis), err_msg=path)
      copies += 1
    elif not (path.startswith('vision/') and 'router' in path):
      np.testing.assert_array_equal(w, old[path], err_msg=path)
  assert copies == 8  # two matrices with biases, in two places
