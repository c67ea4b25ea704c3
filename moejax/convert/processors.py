"""Image processors of Hugging Face folders as `Preprocessing`, and back.

The file is preprocessor_config.json, or processor_config.json with the same
content under `image_processor`, as transformers 5 writes it for a processor of
images and text.
"""

import json
import pathlib
import re
from typing import Any

from moejax.core import errors, files, table
from moejax.vision import preprocessing
from moejax.vision.preprocessing import RESAMPLING, Preprocessing

FILE, JOINT, PART = (
  'preprocessor_config.json',
  'processor_config.json',
  'image_processor',
)
_TYPES = ('image_processor_type', 'feature_extractor_type')
_COMMON: dict[str, Any] = {
  'do_resize': True,
  'do_center_crop': False,
  'do_rescale': True,
  'do_normalize': True,
  'do_convert_rgb': True,
  'do_pad': False,
  'resample': RESAMPLING['bicubic'],
  'rescale_factor': 1 / 255,
}
# Defaults of the classes in transformers, by the front of their names.
DEFAULTS: dict[str, dict[str, Any]] = {
  'CLIP': _COMMON
  | {
    'do_center_crop': True,
    'size': {'shortest_edge': 224},
    'crop_size': {'height': 224, 'width': 224},
    'image_mean': preprocessing.CLIP_MEAN,
    'image_std': preprocessing.CLIP_STD,
  },
  'Siglip': _COMMON
  | {
    'size': {'height': 224, 'width': 224},
    'crop_size': None,
    'image_mean': (0.5, 0.5, 0.5),
    'image_std': (0.5, 0.5, 0.5),
  },
}
# Keys of which one value alone is supported; null stands for it too.
_ONLY = {'do_convert_rgb': True, 'do_pad': False}


def read(folder: pathlib.Path) -> Preprocessing:
  """The preprocessing of a folder.

  Raises:
    InputError: there is no file of an image processor, or it has a type or a
      value that moejax does not support.
  """
  file, theirs = _content(folder)
  try:
    return _read(theirs)
  except errors.InputError as e:
    raise errors.InputError(f'{file}: {e}') from None
  except (TypeError, ValueError, AttributeError, OverflowError) as e:
    raise errors.InputError(f'{file} cannot be used: {e}') from None


def write(folder: pathlib.Path, config: Preprocessing) -> None:
  """Writes preprocessor_config.json; `read` gives the same again.

  Raises:
    InputError: image processors of transformers have no such step.
  """
  if config.pad_square:
    raise errors.InputError(
      'pad_square=True has no key in the image processors of CLIP and SigLIP'
    )
  size: Any = dict(zip(('height', 'width'), config.size, strict=False))
  if len(config.size) == 1:
    size = {'shortest_edge': config.size[0]}
  shared = dict(_COMMON)
  kind = 'CLIP' if config.crop or len(config.size) == 1 else 'Siglip'
  if config.crop:
    shared['crop_size'] = dict(
      zip(('height', 'width'), config.crop, strict=True)
    )
  content = shared | {
    'image_processor_type': f'{kind}ImageProcessor',
    'do_resize': bool(config.size),
    'do_center_crop': bool(config.crop),
    'size': size or DEFAULTS[kind]['size'],
    'resample': RESAMPLING[config.resample],
    'rescale_factor': config.scale,
    'image_mean': list(config.mean),
    'image_std': list(config.std),
  }
  del content['do_pad']
  files.atomic_write_json(folder / FILE, content)


def _content(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
  """The file of a folder's image processor, and its content."""
  for name in (FILE, JOINT):
    file = folder / name
    if not file.exists():
      continue
    try:
      content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as e:
      raise errors.InputError(f'{file} is not JSON: {e}') from None
    if name == JOINT and isinstance(content, dict):
      content = content.get(PART)
    if not isinstance(content, dict):
      raise errors.InputError(f'{file} has no object of an image processor')
    return file, content
  raise errors.InputError(
    f'{folder} has no {FILE}: nothing says how images are prepared; fetch it'
  )


def _read(theirs: dict[str, Any]) -> Preprocessing:
  named = [theirs[key] for key in _TYPES if theirs.get(key)]
  name = str(named[0]) if named else ''
  # CLIPImageProcessor, SiglipImageProcessorFast, CLIPFeatureExtractor, ...
  front = re.sub(r'(ImageProcessor|FeatureExtractor)(Fast|Pil)?$', '', name)
  defaults = table.lookup('image processor', DEFAULTS, front)
  keys = defaults | {k: v for k, v in theirs.items() if v is not None}
  for key, value in _ONLY.items():
    if keys[key] != value:
      raise errors.InputError(f'{key}={keys[key]!r} is not supported')
  resample = {number: name for name, number in RESAMPLING.items()}
  if keys['resample'] not in resample:
    raise errors.InputError(f'resample={keys["resample"]!r} is no filter')
  normalised = keys['do_normalize']
  mean, std = (keys[f'image_{name}'] for name in ('mean', 'std'))
  return Preprocessing(
    size=_size(keys['size']) if keys['do_resize'] else (),
    resample=resample[keys['resample']],
    crop=_crop(keys['crop_size']) if keys['do_center_crop'] else (),
    scale=float(keys['rescale_factor']) if keys['do_rescale'] else 1.0,
    mean=_channels(mean) if normalised else (0.0, 0.0, 0.0),
    std=_channels(std) if normalised else (1.0, 1.0, 1.0),
  )


def _size(size: Any) -> tuple[int, ...]:
  """Rows and columns, or the shorter edge."""
  if isinstance(size, int):
    return (size,)
  keys = set(size) if isinstance(size, dict) else set()
  if keys == {'shortest_edge'}:
    return (int(size['shortest_edge']),)
  if keys == {'height', 'width'}:
    return int(size['height']), int(size['width'])
  raise errors.InputError(
    f'size={size!r} is not supported; height and width are, or shortest_edge'
  )


def _crop(size: Any) -> tuple[int, ...]:
  """Rows and columns of the crop; one number stands for a square."""
  size = {'height': size, 'width': size} if isinstance(size, int) else size
  if not isinstance(size, dict) or set(size) != {'height', 'width'}:
    raise errors.InputError(
      f'crop_size={size!r} is not supported; height and width are'
    )
  return int(size['height']), int(size['width'])


def _channels(values: Any) -> tuple[float, ...]:
  """A value for each channel; one number stands for all three."""
  values = [values] * 3 if isinstance(values, (int, float)) else values
  return tuple(map(float, values))
