"""The page of a run, and that of several, in a real browser."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from helpers import page_data
from helpers.browser import WIDTHS

from moejax import page
from moejax.cli import report

pytestmark = pytest.mark.browser

THEME = 'document.documentElement.dataset.theme'
# Words in the titles of buttons that would send a figure away.
UPLOAD = ('share', 'cloud', 'edit in', 'plotly')


@pytest.fixture(scope='module')
def pages(runs, tmp_path_factory):
  """Addresses of pages by name, as files."""
  folder = tmp_path_factory.mktemp('pages')
  wanted = {'run': ['first'], 'comparison': ['first', 'second']}
  addresses = {}
  for name, names in wanted.items():
    path = folder / f'{name}.html'
    workdirs = [f'--workdir={runs[run]}' for run in names]
    report.main([*workdirs, f'--out={path}'])
    addresses[name] = path.as_uri()
  return addresses


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('name', ['run', 'comparison'])
def test_a_page_is_drawn_whole_without_a_network(
  visit, pages, name, scheme, width
):
  opened = visit(pages[name], width=WIDTHS[width], scheme=scheme)
  assert opened.drawn() >= 2
  opened.picture(f'{name}-{width}-{scheme}')
  assert opened.problems == []
  assert opened.network() == []
  assert opened.page.evaluate(THEME) == scheme
  # Figures and tables scroll by themselves if they must, the page never.
  assert (
    opened.page.evaluate('document.documentElement.scrollWidth')
    == (WIDTHS[width])
  )
  empty = opened.page.evaluate(
    """() => [...document.querySelectorAll('figure.plot')].filter((figure) => {
      const marks = figure.querySelectorAll(
        '.scatterlayer path.js-line, .scatterlayer path.point, '
        + '.heatmaplayer image, .barlayer path');
      return ![...marks].some((mark) => {
        const box = mark.getBoundingClientRect();
        return box.width > 0 || box.height > 0;
      });
    }).map((figure) => figure.id)"""
  )
  assert empty == []


def test_no_button_sends_a_figure_anywhere(visit, pages):
  opened = visit(pages['run'])
  figures = opened.drawn()
  titles = opened.page.eval_on_selector_all(
    '.modebar-btn', 'all => all.map((x) => x.dataset.title || x.title)'
  )
  assert len(titles) >= figures
  assert not [t for t in titles if any(word in t.lower() for word in UPLOAD)]


def test_pointing_at_a_curve_shows_its_values(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  plot = opened.page.locator('section#training .nsewdrag').first
  plot.scroll_into_view_if_needed()
  box = plot.bounding_box()
  texts = []
  # From side to side, for a curve of few points has values at some places only.
  for share in np.linspace(0.05, 0.95, 19):
    opened.page.mouse.move(
      box['x'] + share * box['width'], box['y'] + box['height'] / 2
    )
    opened.page.wait_for_timeout(100)
    texts += opened.page.locator('.hoverlayer text').all_text_contents()
  assert any(any(c.isdigit() for c in text) for text in texts), texts


def test_a_run_has_every_section(visit, pages):
  opened = visit(pages['run'])
  sections = opened.page.eval_on_selector_all(
    'main > section', 'all => all.map((x) => x.id)'
  )
  assert set(sections) - {'left-out'} == set(page.SECTIONS)


def test_text_is_read_token_by_token(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  widget = opened.page.locator('section#coloured .widget')
  readout = widget.locator('.readout')
  tokens = widget.locator('.tokens:visible span')
  tokens.nth(3).scroll_into_view_if_needed()
  tokens.nth(3).hover()
  pointed = readout.text_content()
  assert pointed.startswith('Token ')
  assert 'expert (gate weight)' in pointed
  widget.locator('.tokens:visible').focus()
  opened.page.keyboard.press('ArrowRight')
  assert readout.text_content() != pointed
  # Another layer has other experts, and so other colours.
  colours = lambda: tokens.evaluate_all(
    'all => all.map((x) => x.style.background)'
  )
  before = colours()
  assert len(set(before)) > 1
  widget.get_by_label('Layer').select_option(index=1)
  assert colours() != before
  assert opened.problems == []


def test_an_image_is_a_grid_of_its_patches(visit, tmp_path):
  path = tmp_path / 'seeing.html'
  path.write_text(page.page(page_data.full()).html)
  opened = visit(path.as_uri())
  opened.drawn()
  patches = opened.page.locator('section#coloured .patches:visible span')
  assert patches.count() == 2
  boxes = [patches.nth(n).bounding_box() for n in range(2)]
  assert boxes[0]['y'] == boxes[1]['y']
  assert boxes[0]['x'] + boxes[0]['width'] < boxes[1]['x']
  assert min(box['height'] for box in boxes) > 10
  patches.nth(1).hover()
  readout = opened.page.locator('section#coloured .readout')
  assert readout.text_content().startswith('Token " end"')  # its text here
  assert opened.problems == []


def test_the_tokens_of_an_expert_are_browsed(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  widget = opened.page.locator('section#vocabulary .widget')
  choice = widget.get_by_role('combobox').nth(1)
  first = choice.input_value()
  widget.get_by_role('button', name='Next').click()
  assert choice.input_value() != first
  widget.get_by_role('button', name='Previous').click()
  assert choice.input_value() == first
  assert opened.problems == []


def slider_of(opened):
  figure = opened.page.locator('figure.plot:has(input[type=range])').first
  return figure, figure.locator('input[type=range]')


def image(figure):
  return figure.locator('.heatmaplayer image').get_attribute('href')


def test_the_slider_moves_through_training_and_never_by_itself(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  figure, slider = slider_of(opened)
  slider.scroll_into_view_if_needed()
  last = int(slider.get_attribute('max'))
  assert last >= 1
  before = slider.input_value(), image(figure)
  time.sleep(1)
  assert (slider.input_value(), image(figure)) == before
  seen = {}
  for value in (0, last):
    slider.focus()
    opened.page.keyboard.press('Home' if value == 0 else 'End')
    assert int(slider.input_value()) == value
    seen[slider.get_attribute('aria-valuetext')] = image(figure)
  assert len(seen) == len(set(seen.values())) == 2
  opened.page.keyboard.press('ArrowLeft')
  assert int(slider.input_value()) == last - 1


def test_every_control_is_reached_by_the_keyboard(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  want = opened.page.evaluate(
    """() => {
      const shown = [...document.querySelectorAll(
        'a[href], button, input, select, summary, [tabindex="0"]')]
        .filter((x) => x.checkVisibility() && !x.closest('.modebar'));
      shown.forEach((x, i) => { x.dataset.number = i; });
      return shown.length;
    }"""
  )
  reached = []
  for _ in range(2 * want + 50):
    opened.page.keyboard.press('Tab')
    number = opened.page.evaluate('document.activeElement.dataset.number')
    if number is not None:
      if number in reached:
        break
      reached.append(number)
  order = [int(number) for number in reached]
  assert sorted(order) == [*range(want)]
  # In the order of the page, and the way past the list of sections comes first.
  assert order == sorted(order)
  first = opened.page.locator('[data-number="0"]')
  assert first.get_attribute('href') == '#contents'


def test_every_control_and_picture_has_a_name_to_be_read_aloud(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  nameless = opened.page.evaluate(
    """() => [...document.querySelectorAll('input, select, button, [role=img]')]
      .filter((x) => !(x.labels?.length || x.textContent.trim()
        || x.getAttribute('aria-label')))
      .map((x) => x.outerHTML.slice(0, 200))"""
  )
  assert nameless == []


@pytest.mark.parametrize('name', ['run', 'comparison'])
def test_no_two_elements_have_one_id(visit, pages, name):
  opened = visit(pages[name])
  opened.drawn()
  ids = opened.page.eval_on_selector_all('[id]', 'all => all.map((x) => x.id)')
  assert [one for one, count in Counter(ids).items() if count > 1] == []


def test_headings_are_in_order(visit, pages):
  opened = visit(pages['run'])
  levels = opened.page.eval_on_selector_all(
    'h1, h2, h3, h4, h5', 'all => all.map((x) => Number(x.localName[1]))'
  )
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_the_numbers_of_a_figure_are_a_table(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  figure = opened.page.locator('figure.plot').first
  figure.locator('summary').click()
  # It is filled when it has been opened.
  figure.locator('.numbers tbody tr').first.wait_for()


def test_the_theme_is_changed_by_its_button(visit, pages):
  opened = visit(pages['run'], scheme='light')
  opened.drawn()
  background = 'getComputedStyle(document.body).backgroundColor'
  light = opened.page.evaluate(background)
  opened.page.locator('#theme').click()
  assert opened.page.evaluate(THEME) == 'dark'
  assert opened.page.evaluate(background) != light
  assert opened.problems == []


def test_it_prints(visit, pages):
  opened = visit(pages['run'])
  opened.drawn()
  assert opened.page.pdf().startswith(b'%PDF')
  opened.page.emulate_media(media='print')
  opened.picture('run-printed')
