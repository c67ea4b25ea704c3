"""Image processors of folders become the steps that they stand for."""

import json

import pytest

from moejax.convert import processors
from moejax.core import errors
from moejax.vision import preprocessing
from moejax.vision.preprocessing import Preprocessing

CLIP = Preprocessing(
  size=(224,),
  crop=(224, 224),
  mean=preprocessing.CLIP_MEAN,
  std=preprocessing.CLIP_STD,
)


def read(folder, content, name=processors.FILE):
  (folder / name).write_text(json.dumps(content))
  return processors.read(folder)


def test_the_oldest_files_of_clip(tmp_path):
  """One number for a size is the shorter edge, for a crop a square."""
  content = {
    'feature_extractor_type': 'CLIPFeatureExtractor',
    'size': 336,
    'crop_size': 300,
    'resample': 2,
    'image_mean': [0.1, 0.2, 0.3],
    'image_std': [1, 2, 3],
  }
  assert read(tmp_path, content) == Preprocessing(
    size=(336,),
    resample='bilinear',
    crop=(300, 300),
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
  )


def test_what_a_file_leaves_out_is_the_default_of_its_class(tmp_path):
  for suffix in ('', 'Fast', 'Pil'):
    content = {'image_processor_type': f'CLIPImageProcessor{suffix}'}
    assert read(tmp_path, content) == CLIP
  content = {'image_processor_type': 'SiglipImageProcessor', 'crop_size': None}
  assert read(tmp_path, content) == Preprocessing()


def test_steps_that_are_off_change_nothing(tmp_path):
  steps = ('resize', 'center_crop', 'rescale', 'normalize')
  content = {'image_processor_type': 'CLIPImageProcessor'}
  content |= {f'do_{step}': False for step in steps}
  assert read(tmp_path, content) == Preprocessing(
    size=(), crop=(), scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
  )


def test_the_joint_file_of_images_and_text_is_read(tmp_path):
  inner = {'image_processor_type': 'CLIPImageProcessor'}
  content = {'processor_class': 'LlavaProcessor', 'image_processor': inner}
  assert read(tmp_path, content, processors.JOINT) == CLIP


@pytest.mark.parametrize(
  'config',
  [
    CLIP,
    Preprocessing(),
    Preprocessing(size=(), crop=(7, 9), scale=0.25),
    Preprocessing(size=(5, 6), resample='lanczos', mean=(0.0, 1.0, 2.0)),
    Preprocessing(size=(), scale=1.0),
  ],
)
def test_what_is_written_is_read_again(config, tmp_path):
  processors.write(tmp_path, config)
  assert processors.read(tmp_path) == config


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({}, "unknown image processor ''"),
    ({'image_processor_type': 'ViTImageProcessor'}, "processor 'ViT'"),
    ({'do_pad': True}, 'do_pad=True is not supported'),
    ({'do_convert_rgb': False}, 'do_convert_rgb=False is not supported'),
    ({'resample': 9}, 'resample=9 is no filter'),
    ({'size': {'longest_edge': 3}}, "size={'longest_edge': 3} is not"),
    ({'size': {'height': 0, 'width': 3}}, 'size=0 must be'),
    ({'size': 'large'}, "size='large' is not supported"),
    ({'size': {'shortest_edge': float('inf')}}, 'cannot be used'),
    ({'crop_size': {'height': 3}}, "crop_size={'height': 3} is not"),
    ({'image_std': [1, 0, 1]}, 'std=0.0 must be above 0'),
    ({'image_mean': ['a', 'b', 'c']}, 'cannot be used'),
    ({'image_mean': [1.0]}, 'must have 3 numbers'),
    ([], 'has no object of an image processor'),
  ],
)
def test_what_is_not_supported_is_one_line(content, message, tmp_path):
  if content and isinstance(content, dict):
    content = {'image_processor_type': 'CLIPImageProcessor'} | content
  with pytest.raises(errors.InputError) as error:
    read(tmp_path, content)
  assert message in str(error.value)
  assert str(tmp_path / processors.FILE) in str(error.value)
  assert '\n' not in str(error.value)


def test_missing_and_damaged_files_are_one_line(tmp_path):
  with pytest.raises(errors.InputError, match='has no preprocessor_config'):
    processors.read(tmp_path)
  (tmp_path / processors.FILE).write_text('{')
  with pytest.raises(errors.InputError, match='is not JSON'):
    processors.read(tmp_path)


def test_padding_is_not_written(tmp_path):
  with pytest.raises(errors.InputError, match='pad_square=True has no key'):
    processors.write(tmp_path, Preprocessing(pad_square=True))
