"""Takes the pictures of pages in the README, with a real browser.

  moejax report --workdir=runs/tiny
  python docs/figures/page_pictures.py runs/tiny/report.html docs/report.png \
    experts/load-map domains/domain-map together/coactivation / \
    coloured/text stability/saturation-curve
  python docs/figures/page_pictures.py both.html docs/comparison.png

It needs playwright, and Chromium on the PATH. A picture has the parts of the
page that are named, SECTION/ELEMENT, with / before the next column; without
names, the top of the page.
"""

import io
import pathlib
import shutil
import sys

from PIL import Image
from playwright import sync_api

WIDTH, HEIGHT = 1280, 1000
COLOURS = 256  # of the palette: keeps the file small
GAP = 24


def main(page: str, out: str, *parts: str) -> None:
  """Writes the picture."""
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=shutil.which('chromium'), args=['--no-sandbox']
    )
    opened = browser.new_page(viewport={'width': WIDTH, 'height': HEIGHT})
    opened.goto(pathlib.Path(page).resolve().as_uri())
    opened.wait_for_selector('html[data-drawn]', state='attached')
    columns: list[list[Image.Image]] = [[]]
    for part in parts:
      if part == '/':
        columns.append([])
        continue
      section, element = part.split('/')
      shown = opened.locator(f'section#{section} #{element}')
      columns[-1].append(read(shown.screenshot()))
    picture = joined(columns) if parts else read(opened.screenshot())
    browser.close()
  picture.quantize(
    COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
  ).save(out, optimize=True)


def read(shot: bytes) -> Image.Image:
  """The picture in the bytes of a PNG file."""
  return Image.open(io.BytesIO(shot)).convert('RGB')


def joined(columns: list[list[Image.Image]]) -> Image.Image:
  """The columns of pictures beside each other."""
  widths = [max(p.width for p in column) for column in columns]
  heights = [sum(p.height + GAP for p in column) for column in columns]
  size = (sum(widths) + GAP * (len(columns) - 1), max(heights))
  whole, left = Image.new('RGB', size, 'white'), 0
  for column, width in zip(columns, widths, strict=True):
    top = 0
    for picture in column:
      whole.paste(picture, (left, top))
      top += picture.height + GAP
    left += width + GAP
  return whole


if __name__ == '__main__':
  main(*sys.argv[1:])
