"""The documentation site in a real browser, as `make docs` built it."""

import functools
import http.server
import pathlib
import threading

import pytest
from helpers.browser import WIDTHS

pytestmark = pytest.mark.browser

SITE = pathlib.Path(__file__).parents[2] / 'build' / 'docs'
# One of each kind: cards, wide tables, signatures, a notebook, a long list.
PAGES = [
  'index.html',
  'moe.html',
  'pages/papers.html',
  'pages/reference/moejax.moe.routers.html',
  'pages/keys/experts.html',
  'pages/notebooks/quickstart.html',
  'tree.html',
]


@pytest.fixture(scope='module')
def site():
  assert (SITE / 'index.html').exists(), 'make docs builds the site first'
  return SITE


@pytest.fixture(scope='module')
def served(site):
  """The address of the site from a server of this machine."""
  handler = functools.partial(Quiet, directory=site)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()
    thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
  """Serves files and prints nothing."""

  def log_message(self, *_):
    """Leaves the request out of the output."""


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', PAGES)
def test_a_page_of_the_site_fits_and_needs_no_network(visit, site, name, width):
  opened = visit((site / name).as_uri(), width=WIDTHS[width])
  opened.page.locator('.bd-article h1').wait_for()
  opened.picture(f'site-{name.replace("/", "-")}-{width}')
  assert opened.problems == []
  assert opened.network() == []
  # Tables and code scroll by themselves if they must, the page never.
  assert (
    opened.page.evaluate('document.documentElement.scrollWidth')
    == (WIDTHS[width])
  )
  pictures = opened.page.evaluate(
    '[...document.images].filter((one) => !one.naturalWidth).length'
  )
  assert pictures == 0


def test_the_search_finds_a_page_and_a_class(visit, served):
  for word, target in [
    ('GroupLimited', 'pages/reference/moejax.moe.routers.html'),
    ('Voronoi', 'theory.html'),
  ]:
    opened = visit(f'{served}search.html?q={word}', offline=False)
    found = opened.page.locator(f'#search-results a[href*="{target}"]')
    found.first.wait_for()
    assert opened.network(('data:', served)) == []
    # Sphinx looks for the places of modules, which have dots, in a way that
    # finds none: such a result has no excerpt.
    known = 'warning: Anchored content block not found. Sphinx search'
    assert [one for one in opened.problems if not one.startswith(known)] == []


def test_the_menu_opens_on_a_phone(visit, site):
  opened = visit((site / 'moe.html').as_uri(), width=WIDTHS['narrow'])
  links = opened.page.get_by_role('link', name='Glossary')
  assert not any(one.is_visible() for one in links.all())
  opened.page.locator('.primary-toggle').first.click()
  menu = opened.page.locator('#pst-primary-sidebar-modal')
  menu.get_by_role('link', name='Glossary').click()
  opened.page.wait_for_url('**/glossary.html')
