"""From the pixels of an image to what an encoder reads.

  pixel_HWC = preprocess(image_HWC, Preprocessing())

Results are those of the image processors of transformers that use Pillow
(`CLIPImageProcessorPil`, `SiglipImageProcessorPil`). Those that use torchvision
differ from them by a grey level or two.
"""

import dataclasses

import numpy as np

from moejax.core import errors, fields, table
from moejax.vision import pillow

# Our names of resampling filters -> their numbers in Pillow, which are also in
# the files of image processors.
RESAMPLING = {
  'nearest': 0,
  'lanczos': 1,
  'bilinear': 2,
  'bicubic': 3,
  'box': 4,
  'hamming': 5,
}
# Pixels of an image after it is resized, at most: the longer edge of a narrow
# image can become very long.
_MOST = 2**26
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Preprocessing(fields.Checked):
  """The steps in their order; the default is that of SigLIP at 224 pixels.

  Attributes:
    pad_square: whether an image is first padded to a square with the colour of
      `mean`, itself in the middle (LLaVA-1.5, arXiv 2310.03744).
    size: pixels after resizing. Two numbers: rows and columns, whatever the
      ratio of the image is. One number: the shorter edge, with the ratio kept.
      (): the image is not resized.
    resample: the filter of resizing; it is widened when an image shrinks, so
      that nothing is aliased.
    crop: rows and columns that are cut out of the middle, with zeros around an
      image that is smaller; (): nothing is cut.
    scale: factor of the pixels, 0 to 255.
    mean: subtracted after that, by channel.
    std: divisor after that, by channel.
  """

  pad_square: bool = False
  size: tuple[int, ...] = fields.number((224, 224), at_least=1, at_most=2**15)
  resample: str = fields.named(RESAMPLING, 'bicubic')
  crop: tuple[int, ...] = fields.number((), at_least=1, at_most=2**15)
  scale: float = fields.number(1 / 255, above=0, at_most=1)
  mean: tuple[float, ...] = fields.number(
    (0.5, 0.5, 0.5), at_least=-256, at_most=256
  )
  std: tuple[float, ...] = fields.number((0.5, 0.5, 0.5), above=0, at_most=256)

  def __post_init__(self) -> None:
    super().__post_init__()
    table.lookup('resample', RESAMPLING, self.resample)
    self.check_lengths()

  def check_lengths(self, where: str = '') -> None:
    """Raises InputError for a key with too many or too few numbers.

    Args:
      where: dotted path of the node, with a dot at its end.
    """
    for key, lengths in _LENGTHS.items():
      value = getattr(self, key)
      if len(value) not in lengths:
        counts = ' or '.join(map(str, lengths))
        raise errors.InputError(
          f'{where}{key}={value} must have {counts} numbers'
        )


# How many numbers a key may have.
_LENGTHS = {'size': (0, 1, 2), 'crop': (0, 2), 'mean': (3,), 'std': (3,)}


def preprocess(image_HWC: np.ndarray, config: Preprocessing) -> np.ndarray:
  """Resizes, crops and normalises an image.

  Args:
    image_HWC: uint8, red, green and blue.
    config: the steps.

  Returns:
    float32 [h, w, 3].

  Raises:
    InputError: the image would become very large.
  """
  return normalised(shaped(image_HWC, config), config)


def shaped(image_HWC: np.ndarray, config: Preprocessing) -> np.ndarray:
  """The steps up to cropping: uint8 [h, w, 3]; errors as of `preprocess`."""
  if config.pad_square:
    image_HWC = _padded(image_HWC, config)
  if config.size:
    image_HWC = _resized(image_HWC, config)
  if config.crop:
    image_HWC = _cropped(image_HWC, *config.crop)
  return image_HWC


def normalised(image: np.ndarray, config: Preprocessing) -> np.ndarray:
  """The steps after cropping, of one or several images: float32."""
  scaled = (image * np.float64(config.scale)).astype(np.float32)
  mean, std = (np.array(x, np.float32) for x in (config.mean, config.std))
  return (scaled - mean) / std


def _padded(image_HWC: np.ndarray, config: Preprocessing) -> np.ndarray:
  """The image in the middle of a square of the mean colour."""
  height, width, _ = image_HWC.shape
  side = max(height, width)
  colour = [min(max(int(x / config.scale), 0), 255) for x in config.mean]
  square = np.full((side, side, 3), colour, np.uint8)
  top, left = (side - height) // 2, (side - width) // 2
  square[top : top + height, left : left + width] = image_HWC
  return square


def _resized(image_HWC: np.ndarray, config: Preprocessing) -> np.ndarray:
  """The image in the size of the config, by Pillow."""
  rows, columns = _new_size(image_HWC.shape[:2], config.size)
  if rows * columns > _MOST:
    height, width, _ = image_HWC.shape
    raise errors.InputError(
      f'an image of {height} x {width} pixels would be resized to '
      f'{rows} x {columns}: it is too narrow for size={config.size}'
    )
  image_module, _ = pillow.modules()
  image = image_module.fromarray(np.ascontiguousarray(image_HWC))
  resample = image_module.Resampling(RESAMPLING[config.resample])
  return np.asarray(image.resize((columns, rows), resample))


def _new_size(old: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int]:
  """Rows and columns after resizing.

  Example:
    _new_size((100, 150), (50,))      (50, 75)
    _new_size((100, 150), (50, 50))   (50, 50)
  """
  if len(size) == 2:
    return size[0], size[1]
  (shorter,) = size
  rows, columns = old
  if columns <= rows:
    return int(shorter * rows / columns), shorter
  return shorter, int(shorter * columns / rows)


def _cropped(image_HWC: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """The middle of the image, with zeros around it where it is smaller."""
  height, width, _ = image_HWC.shape
  above, before = max(rows - height, 0), max(columns - width, 0)
  # Half a pixel more goes to the front where zeros are put, to the back where
  # pixels are cut.
  grown = np.pad(
    image_HWC,
    (
      (above - above // 2, above // 2),
      (before - before // 2, before // 2),
      (0, 0),
    ),
  )
  top = (grown.shape[0] - rows) // 2
  left = (grown.shape[1] - columns) // 2
  return grown[top : top + rows, left : left + columns]
