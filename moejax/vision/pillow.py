"""Pillow, which is imported when the first image is read."""

from types import ModuleType

from moejax.core import errors


def modules() -> tuple[ModuleType, ModuleType]:
  """`PIL.Image` and `PIL.ImageOps`.

  Raises:
    InputError: Pillow is not installed.
  """
  try:
    from PIL import Image, ImageOps
  except ImportError:
    raise errors.InputError(
      "images need Pillow: pip install 'moejax[vision]'"
    ) from None
  return Image, ImageOps
