"""The command of vision encoders, on a folder that is written by hand."""

import json
import math

import numpy as np
import pytest
from helpers import vision
from PIL import Image
from safetensors.numpy import load_file

from moejax.cli import encoder
from moejax.core import errors

STEPS = {
  'image_processor_type': 'CLIPImageProcessor',
  'size': {'shortest_edge': 14},
  'crop_size': {'height': 14, 'width': 21},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  config = vision.config('clip')
  tensors = vision.tensors('clip', config)
  path = tmp_path_factory.mktemp('hf') / 'clip'
  vision.write(path, config, tensors, 'vision_model.')
  (path / 'preprocessor_config.json').write_text(json.dumps(STEPS))
  return path, vision.Reference('clip', config, tensors)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Images of the size that the steps leave as it is."""
  path = tmp_path_factory.mktemp('photos')
  rng = np.random.default_rng(0)
  for name in ('a.png', 'b/c.png', 'd.png'):
    (path / name).parent.mkdir(exist_ok=True)
    pixels = rng.integers(0, 256, (14, 21, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path / name)
  (path / 'notes.txt').write_text('no image')
  return path


def test_features_of_a_folder_are_those_of_the_formulas(
  folder, photos, tmp_path, capsys
):
  path, reference = folder
  out = tmp_path / 'out.safetensors'
  encoder.main([
    'features', str(path), f'--images={photos}', f'--out={out}', '--batch=2'
  ])  # fmt: skip
  assert 'the features of 3 images' in capsys.readouterr().out
  found = load_file(out)
  assert found.keys() == {'a.png', 'b/c.png', 'd.png'}
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])
  for name, feature_ND in found.items():
    pixels = np.asarray(Image.open(photos / name)) / 255
    wanted = reference.hidden_states((pixels - mean) / std)[-2][1:]
    np.testing.assert_allclose(feature_ND, wanted, atol=1e-4)


def test_images_that_cannot_be_read_stop_or_are_left_out(
  folder, photos, tmp_path, capsys
):
  damaged = tmp_path / 'photos'
  damaged.mkdir()
  (damaged / 'a.png').write_bytes((photos / 'a.png').read_bytes()[:-40])
  words = ['features', str(folder[0]), f'--images={damaged}']
  words += [f'--out={tmp_path / "out"}', '--image=a.png', '--image=x.png']
  with pytest.raises(errors.InputError, match=r'a\.png is damaged'):
    encoder.main(words)
  with pytest.raises(errors.InputError, match=r'no image .*a\.png is dam'):
    encoder.main([*words, '--skip'])
  with pytest.raises(
    errors.InputError, match=r"image '\\udcff.png' is not UTF"
  ):
    encoder.main([*words[:-2], '--image=\udcff.png'])
  (damaged / 'b.png').write_bytes((photos / 'd.png').read_bytes())
  encoder.main([*words, '--image=b.png', '--skip', '--layers=-1,0'])
  assert 'Left out: 2 images; the first: image' in capsys.readouterr().out
  found = load_file(tmp_path / 'out')
  assert {name: x.shape for name, x in found.items()} == {'b.png': (6, 24)}


@pytest.mark.parametrize('layout', ['hub', 'short', ''])
def test_an_export_is_the_folder_again(layout, folder, tmp_path, capsys):
  path, _ = folder
  target = tmp_path / 'out'
  layouts = [f'--layout={layout}'] if layout else []
  encoder.main(['export', str(path), f'--to={target}', *layouts])
  assert 'transformers loads it as CLIPVisionModel' in capsys.readouterr().out
  prefix = '' if layout == 'short' else 'vision_model.'
  found = load_file(target / 'model.safetensors')
  for name, x in load_file(path / 'model.safetensors').items():
    name = prefix + name.removeprefix('vision_model.')
    np.testing.assert_array_equal(found.pop(name), x)
  assert not found
  steps = 'preprocessor_config.json'
  assert (target / steps).read_bytes() == (path / steps).read_bytes()
  with pytest.raises(errors.InputError, match='has weights already'):
    encoder.main(['export', str(path), f'--to={target}'])


def test_inspect_says_what_there_is(folder, capsys):
  encoder.main(['inspect', str(folder[0])])
  said = capsys.readouterr().out
  shapes = vision.shapes('clip', vision.config('clip'))
  total = sum(map(math.prod, shapes.values()))
  for words in (
    f'a clip_vision_model of {total:,} parameters: 3 layers of width 12',
    '4 x 4 patches of 7 x 7 pixels',
    "begin with 'vision_model.'",
    'crop=(14, 21)',
  ):
    assert words in said


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['export', '--to=x', '--layout=long'], "unknown layout 'long'"),
    (['export', '--to=x', '--dtype=int8'], "unknown dtype 'int8'"),
    (['features', '--images=x', '--out=x'], 'there is no such folder'),
    (['features', '--images=.', '--out=y/x'], "no folder 'y'"),
    (['features', '--images=.', '--out=gs://y/x'], 'a file of this machine'),
    (['features', '--images=.', '--out=x', '--layers=9'], 'give -4 to 3'),
    (['features', '--images=.', '--out=x', '--layers=a'], '--layers=a must be'),
    (['inspect', '--config.seed=1'], '--config.seed: this command has no'),
  ],
)
def test_wrong_flags_are_one_line(
  words, message, folder, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  Image.new('RGB', (9, 9)).save('a.png')
  with pytest.raises(errors.InputError) as error:
    encoder.main([words[0], str(folder[0]), *words[1:]])
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']
