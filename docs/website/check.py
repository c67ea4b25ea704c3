"""Checks a built site: its links, and that it needs no other host.

python -m docs.website.check build/docs
"""

import html.parser
import pathlib
import sys
import urllib.parse

# Attributes whose address the browser fetches when the page opens.
_FETCHED = {
  ('audio', 'src'),
  ('iframe', 'src'),
  ('img', 'src'),
  ('link', 'href'),
  ('script', 'src'),
  ('source', 'src'),
  ('video', 'src'),
}
# Links that fetch nothing.
_INERT = {'canonical', 'index', 'next', 'prev', 'search', 'author', 'top', 'up'}


class Page(html.parser.HTMLParser):
  """What a page links to, and what can be linked to in it.

  Attributes:
    anchors: ids and names.
    links: addresses as they are written.
    fetched: those that the browser fetches by itself.
  """

  def __init__(self, text: str):
    super().__init__()
    self.anchors: set[str] = set()
    self.links: list[str] = []
    self.fetched: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    known = dict(attrs)
    self.anchors |= {known[key] for key in ('id', 'name') if known.get(key)}
    inert = set((known.get('rel') or '').split()) & _INERT
    for key in ('href', 'src'):
      address = known.get(key)
      if address is None or inert:
        continue
      self.links.append(address)
      if (tag, key) in _FETCHED:
        self.fetched.append(address)


def html_pages(site: pathlib.Path) -> list[pathlib.Path]:
  """The pages of a site, without the templates of its theme."""
  return [
    path
    for path in sorted(site.rglob('*.html'))
    if '_static' not in path.relative_to(site).parts
  ]


def faults(site: pathlib.Path) -> list[str]:
  """One line for each link that leads nowhere, or to a host when it must not.

  Links of other hosts are not followed: they must be https, or http where that
  is all there is, and name a host.

  Args:
    site: the folder with the built pages.
  """
  pages = {
    path: Page(path.read_text(encoding='utf-8')) for path in html_pages(site)
  }
  found = []
  for path, page in pages.items():
    name = path.relative_to(site)
    for address in page.links:
      fault = _fault(address, path, pages)
      if fault:
        found.append(f'{name}: {address}: {fault}')
    for address in page.fetched:
      if urllib.parse.urlsplit(address).netloc:
        found.append(f'{name}: {address}: is fetched from another host')
  return found


def _fault(
  address: str, path: pathlib.Path, pages: dict[pathlib.Path, Page]
) -> str:
  """What is wrong with a link; '' if nothing."""
  parts = urllib.parse.urlsplit(address)
  if parts.scheme in {'http', 'https'}:
    named = '.' in parts.netloc and ' ' not in address
    return '' if named else 'is no address'
  if parts.scheme in {'data', 'mailto'}:
    return ''
  if parts.scheme or parts.netloc:
    return 'has an unknown scheme'
  there = path
  if parts.path:
    there = (path.parent / urllib.parse.unquote(parts.path)).resolve()
    if there.is_dir():
      there /= 'index.html'
  if not there.exists():
    return 'is not there'
  place = urllib.parse.unquote(parts.fragment)
  if place and there in pages and place not in pages[there].anchors:
    return 'has no such place'
  return ''


def main() -> None:
  """Prints the faults of the site that the command line names."""
  site = pathlib.Path(sys.argv[1]).resolve()
  found = faults(site)
  for line in found:
    print(line)
  pages = html_pages(site)
  print(f'{len(pages)} pages, {len(found)} faults in their links')
  sys.exit(bool(found) or not pages)


if __name__ == '__main__':
  main()
