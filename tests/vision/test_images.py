"""Images in every form that they come in, and what is no image."""

import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from moejax.core import errors
from moejax.vision import images
from moejax.vision.images import ReadConfig

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RGB[..., 0]


def read(folder, name, **keys):
  return images.read(folder, name, ReadConfig(**keys))


def save(folder, image, name='a.png', **keys):
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(folder / name, **keys)
  return name


def same(found, wanted):
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
  'name', ['a.png', 'a.bmp', 'a.ppm', 'a.tiff', 'a.webp']
)
def test_formats_without_loss_give_the_pixels(name, tmp_path):
  keys = {'lossless': True} if name == 'a.webp' else {}
  same(read(tmp_path, save(tmp_path, RGB, name, **keys)), RGB)


def test_a_jpeg_of_one_colour_has_that_colour(tmp_path):
  plain = np.full((16, 16, 3), (200, 100, 50), np.uint8)
  found = read(tmp_path, save(tmp_path, plain, 'a.jpg', quality=95))
  assert np.abs(found.astype(int) - plain).max() <= 3


def test_grey_levels_of_1_8_and_16_bits(tmp_path):
  grey = np.repeat(GREY[..., None], 3, -1)
  same(read(tmp_path, save(tmp_path, GREY)), grey)
  deep = Image.fromarray(GREY.astype(np.uint16) * 257)
  for name in ('deep.png', 'deep.tiff'):
    same(read(tmp_path, save(tmp_path, deep, name)), grey)
  black = Image.fromarray(GREY > 127)
  wanted = np.where(grey > 127, 255, 0)
  same(read(tmp_path, save(tmp_path, black)), wanted)


def test_a_palette_gives_its_colours(tmp_path):
  indices = Image.fromarray((np.arange(35) % 3).astype(np.uint8).reshape(5, 7))
  indices = indices.convert('P')
  colours = [(255, 0, 0), (0, 250, 0), (3, 4, 5)]
  indices.putpalette([level for colour in colours for level in colour])
  wanted = np.array(colours)[np.arange(35) % 3].reshape(5, 7, 3)
  same(read(tmp_path, save(tmp_path, indices)), wanted)


def test_cmyk_is_what_is_left_of_white(tmp_path):
  """Red is (255 - cyan) (255 - black) / 255, to one level."""
  inks = RNG.integers(0, 256, (5, 7, 4)).astype(np.uint8)
  name = save(tmp_path, Image.fromarray(inks, 'CMYK'), 'a.tiff')
  left = 255.0 - inks
  wanted = left[..., :3] * left[..., 3:] / 255
  assert np.abs(read(tmp_path, name) - wanted).max() <= 1


def test_the_first_frame_of_an_animation(tmp_path):
  frames = [Image.new('RGB', (6, 4), c) for c in ('red', 'blue', 'lime')]
  for name in ('a.gif', 'a.webp', 'a.tiff', 'a.png'):
    keys = {'lossless': True} if name == 'a.webp' else {}
    frames[0].save(
      tmp_path / name, save_all=True, append_images=frames[1:], **keys
    )
    same(read(tmp_path, name), np.full((4, 6, 3), (255, 0, 0)))


# What each orientation of EXIF does to an image to show it upright.
UPRIGHT = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
  8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize('orientation', UPRIGHT)
def test_exif_orientations_are_undone(orientation, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = orientation
  name = save(tmp_path, RGB, exif=exif)
  same(read(tmp_path, name), UPRIGHT[orientation](RGB))
  same(read(tmp_path, name, upright=False), RGB)


def test_transparent_parts_show_the_background(tmp_path):
  rgba = np.concatenate([RGB, np.full((5, 7, 1), 255, np.uint8)], -1)
  rgba[1, 2, 3], rgba[3, 3, 3] = 0, 51  # wholly, and four fifths
  name = save(tmp_path, rgba)
  wanted = RGB.astype(float)
  wanted[1, 2] = 255
  wanted[3, 3] = 0.2 * RGB[3, 3] + 0.8 * 255
  found = read(tmp_path, name)
  assert np.abs(found - wanted).max() <= 1
  wanted[1, 2] = (0, 0, 9)
  wanted[3, 3] = 0.2 * RGB[3, 3] + 0.8 * np.array((0, 0, 9))
  assert np.abs(read(tmp_path, name, background=(0, 0, 9)) - wanted).max() <= 1
  same(read(tmp_path, name, background=()), RGB)


def test_grey_and_palette_with_transparency(tmp_path):
  grey = np.stack([GREY, np.zeros_like(GREY)], -1)
  white = np.full((5, 7, 3), 255)
  same(read(tmp_path, save(tmp_path, Image.fromarray(grey, 'LA'))), white)
  palette = Image.new('P', (7, 5), 1)
  palette.putpalette([0, 0, 0, 9, 9, 9])
  same(read(tmp_path, save(tmp_path, palette, transparency=1)), white)


def test_images_in_folders_are_found(tmp_path):
  (tmp_path / 'cats').mkdir()
  save(tmp_path, RGB, 'cats/ä 1.png')
  same(read(tmp_path, 'cats/ä 1.png'), RGB)
  same(read(tmp_path, './cats/../cats/ä 1.png'), RGB)


def bomb(pixels):
  """A PNG whose header claims a square of many pixels."""
  side = int(pixels**0.5)
  chunks = [
    (b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)),
    (b'IDAT', zlib.compress(b'\0' * 99)),
    (b'IEND', b''),
  ]
  out = b'\x89PNG\r\n\x1a\n'
  for kind, data in chunks:
    crc = struct.pack('>I', zlib.crc32(kind + data))
    out += struct.pack('>I', len(data)) + kind + data + crc
  return out


@pytest.mark.parametrize(
  ('pixels', 'message'),
  [
    (10**8, '10000 x 10000 pixels, more than max_pixels=67108864'),
    (10**9, 'more than 178956970 pixels'),
  ],
)
def test_an_image_bomb_is_refused_before_it_is_decoded(
  pixels, message, tmp_path
):
  (tmp_path / 'bomb.png').write_bytes(bomb(pixels))
  with warnings.catch_warnings(record=True) as shown:
    warnings.simplefilter('always')
    with pytest.raises(errors.InputError, match=message):
      read(tmp_path, 'bomb.png')
  assert not shown


def test_the_limit_of_pixels_can_be_set(tmp_path):
  name = save(tmp_path, RGB)
  same(read(tmp_path, name, max_pixels=35), RGB)
  with pytest.raises(errors.InputError, match='5 x 7 pixels.*max_pixels=34'):
    read(tmp_path, name, max_pixels=34)


def message_of(folder, name):
  """The error of an image, or None if it can be read."""
  try:
    assert read(folder, name).shape[-1] == 3
  except errors.InputError as error:
    return str(error)
  return None


@pytest.mark.parametrize('kind', ['png', 'jpg', 'gif', 'webp', 'bmp'])
def test_damaged_images_are_one_line(kind, tmp_path):
  """Cut anywhere, or with bytes changed; none ends in another error."""
  noise = RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8)
  name = save(tmp_path, noise, f'a.{kind}')
  whole = (tmp_path / name).read_bytes()
  refused = 0
  for at in range(0, len(whole) - 1, max(len(whole) // 25, 1)):
    for data in (whole[:at], whole[:at] + b'\xff\0\xff\0' + whole[at + 4 :]):
      (tmp_path / name).write_bytes(data)
      message = message_of(tmp_path, name)
      if message:
        refused += 1
        assert message.startswith(f'image {tmp_path / name} is damaged')
        assert '\n' not in message
  assert refused >= 20


def test_what_is_no_image_is_refused(tmp_path):
  (tmp_path / 'a.png').write_text('<svg/>')
  with pytest.raises(errors.InputError, match='or in no format of BMP, GIF'):
    read(tmp_path, 'a.png')
  # Pillow would start Ghostscript.
  (tmp_path / 'a.eps').write_text(
    '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
  )
  with pytest.raises(errors.InputError, match='or in no format'):
    read(tmp_path, 'a.eps')
  name = save(tmp_path, RGB[..., 0].astype(np.float32), 'a.tiff')
  with pytest.raises(errors.InputError, match='grey levels of 32 bits'):
    read(tmp_path, name)


def test_paths_out_of_the_folder_are_refused(tmp_path):
  inside = tmp_path / 'inside'
  inside.mkdir()
  save(tmp_path, RGB, 'a.png')
  os.symlink(tmp_path / 'a.png', inside / 'link.png')
  for name in (
    '../a.png',
    str(tmp_path / 'a.png'),
    'link.png',
    'x/../../a.png',
  ):
    with pytest.raises(errors.InputError, match='leads out of the folder'):
      read(inside, name)


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(errors.InputError, match=r"'b\.png' is not there"):
    read(tmp_path, 'b.png')
  with pytest.raises(errors.InputError, match='is no file'):
    read(tmp_path, '.')
  data_url = 'data:image/png;base64,' + 'x' * 10**5
  for name in ('a\0b', 'a\nb', '\ud800.png', data_url):
    with pytest.raises(errors.InputError) as error:
      read(tmp_path, name)
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 500
  os.symlink('loop', tmp_path / 'loop')
  with pytest.raises(errors.InputError):
    read(tmp_path, 'loop')


def test_wrong_backgrounds_are_one_line():
  with pytest.raises(errors.InputError, match='red, green and blue, or be'):
    ReadConfig(background=(1, 2))
  with pytest.raises(errors.InputError, match='background=256 must be'):
    ReadConfig(background=(1, 2, 256))


def test_without_pillow_the_line_says_what_to_install(tmp_path, monkeypatch):
  name = save(tmp_path, RGB)
  monkeypatch.setitem(sys.modules, 'PIL', None)
  with pytest.raises(
    errors.InputError, match=r"pip install 'moejax\[vision\]'"
  ):
    read(tmp_path, name)
