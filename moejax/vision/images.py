"""Images of a folder as RGB pixels, whatever file they come in.

  image_HWC = read('photos', 'cats/1.jpg', ReadConfig())    # uint8 [H, W, 3]

Of an animation the first frame is read. Nothing outside the folder is read, and
only formats are that Pillow decodes by itself: for others it starts programs.
"""

import dataclasses
import io
import os
import pathlib
import threading
import warnings
from typing import Any, BinaryIO

import numpy as np

from moejax.core import errors, fields
from moejax.vision import pillow

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Pillow itself opens no image of more pixels.
_PILLOW_MOST = 178_956_970
_NAME_SHOWN = 200  # characters of a name in a message
# Filters of warnings belong to the whole process, so one thread at a time may
# change them.
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ReadConfig(fields.Checked):
  """How images are read.

  Attributes:
    max_pixels: number of pixels of the largest image that is decoded. A small
      file can hold an image that does not fit into memory.
    background: red, green and blue, 0 to 255, behind the transparent parts of
      an image; () shows the colours that the file has there, which no viewer
      shows. White is what transformers 5 has, () what LLaVA's code does.
    upright: whether images are turned as their EXIF orientation says. Neither
      transformers nor LLaVA does that.
  """

  max_pixels: int = fields.number(2**26, at_least=1, at_most=_PILLOW_MOST)
  background: tuple[int, ...] = fields.number(
    (255, 255, 255), at_least=0, at_most=255, note='(): not put behind'
  )
  upright: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if len(self.background) not in {0, 3}:
      raise errors.InputError(
        f'background={self.background} must have red, green and blue, or be ()'
      )


def read(
  folder: str | os.PathLike[str], name: str, config: ReadConfig
) -> np.ndarray:
  """The pixels of an image, uint8 [H, W, 3].

  Args:
    folder: the folder that images lie in.
    name: path of the image in the folder.
    config: how it is read.

  Raises:
    InputError: the path leads out of the folder; or the image is missing, too
      large, damaged, or of another format.
  """
  path = find(folder, name)
  where = f'image {errors.shown(path)}'
  try:
    with open(path, 'rb') as file:
      return _pixels(file, where, config)
  except OSError as e:  # of the file, not of its content
    raise errors.InputError(f'{where} cannot be read: {e.strerror}') from None


def decode(data: bytes, where: str, config: ReadConfig) -> np.ndarray:
  """As `read`, of the bytes of a file; `where` names them in messages."""
  return _pixels(io.BytesIO(data), f'image {where}', config)


def _pixels(file: BinaryIO, where: str, config: ReadConfig) -> np.ndarray:
  """The pixels of a file; raises InputError, or OSError for a file's own."""
  image_module, ops = pillow.modules()
  try:
    image = _opened(image_module, file, where)
    _check_size(image, where, config)
    image.load()
    if config.upright:
      image = ops.exif_transpose(image)
    return _rgb(image_module, image, where, config)
  except errors.InputError:
    raise
  except OSError as e:
    if e.errno is not None:
      raise
    raise _damaged(where, e) from None
  except Exception as e:  # noqa: BLE001 (decoders raise errors of many kinds)
    raise _damaged(where, e) from None


def find(folder: str | os.PathLike[str], name: str) -> pathlib.Path:
  """The path of an image, which lies in the folder, links included.

  Raises:
    InputError: it leads out of the folder, or is no file.
  """
  root = pathlib.Path(folder)
  # Some files have a whole image in the place of its path.
  short = name if len(name) <= _NAME_SHOWN else f'{name[:_NAME_SHOWN]}...'
  shown = errors.shown(repr(short))
  try:
    path = (root / name).resolve()
    inside = path.is_relative_to(root.resolve())
    is_file, exists = path.is_file(), path.exists()
  except (OSError, RuntimeError, ValueError) as e:  # too long; a loop; a NUL
    reason = getattr(e, 'strerror', None) or e
    raise errors.InputError(f'image {shown} is no path: {reason}') from None
  if not inside:
    raise errors.InputError(
      f'image {shown} leads out of the folder {errors.shown(root)}; give a '
      'path below it'
    )
  if not is_file:
    what = 'is no file' if exists else 'is not there'
    raise errors.InputError(
      f'image {shown} {what} in the folder {errors.shown(root)}'
    )
  return path


def _opened(image_module: Any, file: Any, where: str) -> Any:
  """The image of a file, of which only the header is read."""
  try:
    with _OPENING, warnings.catch_warnings():
      # It would warn of sizes that `_check_size` refuses or allows.
      warnings.simplefilter('ignore', image_module.DecompressionBombWarning)
      return image_module.open(file, formats=FORMATS)
  except image_module.UnidentifiedImageError:
    raise errors.InputError(
      f'{where} is damaged, or in no format of {", ".join(FORMATS)}'
    ) from None
  except image_module.DecompressionBombError:
    raise errors.InputError(
      f'{where} has more than {_PILLOW_MOST} pixels; make it smaller'
    ) from None


def _check_size(image: Any, where: str, config: ReadConfig) -> None:
  width, height = image.size
  if width * height > config.max_pixels:
    raise errors.InputError(
      f'{where} has {height} x {width} pixels, more than '
      f'max_pixels={config.max_pixels}; make it smaller, or raise the limit'
    )


def _rgb(
  image_module: Any, image: Any, where: str, config: ReadConfig
) -> np.ndarray:
  """Pixels of an image of any mode."""
  if image.mode.startswith('I;16'):
    # Pillow would clip 16 bits to 8. 65,535 becomes 255.
    grey = np.rint(np.asarray(image).astype(np.float64) / 257)
    image = image_module.fromarray(grey.astype(np.uint8))
  if image.mode in {'I', 'F'}:
    raise errors.InputError(
      f'{where} has grey levels of 32 bits, whose range is unknown; save it '
      'with 8 or 16 bits'
    )
  if config.background and image.has_transparency_data:
    colour = (*config.background, 255)
    behind = image_module.new('RGBA', image.size, colour)
    image = image_module.alpha_composite(behind, image.convert('RGBA'))
  return np.asarray(image.convert('RGB'))


def _damaged(where: str, error: Exception) -> errors.InputError:
  words = ' '.join(str(error).split()) or type(error).__name__
  return errors.InputError(f'{where} is damaged: {words}')
