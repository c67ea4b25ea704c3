"""The page of a run: what it shows, what it leaves out, and that it is safe."""

import base64
import configparser
import dataclasses
import hashlib
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from helpers import page_data

from moejax.page import COMPARISONS, SECTIONS, comparison, document, page
from moejax.page.data import PageData, Picture
from moejax.page.sections import (
  coloured,
  curves,
  domains,
  interventions,
  load,
  similarity,
  summary,
  together,
)

ROOT = pathlib.Path(__file__).parents[2]
FULL, EMPTY = page_data.full(), PageData('empty')
OWN_SCRIPTS = [n for n in (*document.SCRIPTS, document.START) if
               n != document.PLOTLY]  # fmt: skip


class Reader(html.parser.HTMLParser):
  """Tags, attributes and texts of a page, scripts apart."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.texts, self.scripts = [], [], [], []
    self._inside = None
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes
    self._inside = tag
    if tag == 'script':
      self.scripts.append((dict(attributes), ''))

  def handle_endtag(self, tag):
    self._inside = None

  def handle_data(self, text):
    if self._inside == 'script':
      attributes, before = self.scripts[-1]
      self.scripts[-1] = attributes, before + text
    else:
      self.texts.append(text)

  def values(self):
    """The data of all figures and widgets."""
    return [json.loads(t) for a, t in self.scripts if a.get('type')]


@pytest.mark.parametrize('name', SECTIONS)
def test_a_section_shows_what_is_there_and_is_left_out_without_it(name):
  entry = SECTIONS[name]
  assert entry.make(FULL)
  assert entry.make(EMPTY) is None
  text = page(EMPTY).html
  assert f'{entry.title}: it needs ' in text
  assert f'id="{name}"' not in text
  whole = page(FULL)
  assert whole.sections[name] in whole.html
  assert f'{entry.title}: it needs ' not in whole.html


@pytest.mark.parametrize('name', COMPARISONS)
def test_a_comparison_shows_several_runs(name):
  both = [FULL, dataclasses.replace(FULL, name='another')]
  assert COMPARISONS[name].make(both)
  assert 'another' in comparison(both).sections[name]


@pytest.mark.parametrize('field', [f.name for f in dataclasses.fields(FULL)])
def test_a_page_of_part_of_a_run_shows_the_rest(field):
  if field == 'name':
    return
  lacking = dataclasses.replace(FULL, **{field: getattr(EMPTY, field)})
  made = page(lacking)
  assert made.sections
  comparison([lacking, FULL])


EVIL = '</script><img src=x onerror=alert(1)><a href="javascript:alert(2)">'


def evil(value):
  """The value with each of its texts made into markup."""
  if isinstance(value, str):
    return value + EVIL
  if isinstance(value, dict):
    return {key: evil(inner) for key, inner in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(evil(inner) for inner in value)
  return value


def test_text_of_a_run_stays_text():
  report = evil(FULL.report)
  report['domains'] = {
    f'{k}{EVIL}': v for k, v in FULL.report['domains'].items()
  }
  data = dataclasses.replace(
    FULL,
    name=f'run{EVIL}',
    config=evil(FULL.config),
    versions=evil(FULL.versions),
    report=report,
    interventions=evil(FULL.interventions),
    plan=evil(FULL.plan),
    texts=evil(FULL.texts),
    trace=dataclasses.replace(
      FULL.trace, domains=tuple(f'{x}{EVIL}' for x in FULL.trace.domains)
    ),
    metrics=[
      {k.replace('code', f'code{EVIL}'): v for k, v in row.items()}
      for row in FULL.metrics
    ],
  )
  # The interventions' metric is compared, and was changed too.
  for result in data.interventions.values():
    for row in result['rows']:
      row['metric'] = 'loss'
  for text in (page(data).html, comparison([data, FULL]).html):
    usual, nasty = Reader(page(FULL).html), Reader(text)
    assert not {'img', 'iframe', 'object'} & set(nasty.tags)
    assert set(nasty.tags) <= set(usual.tags)
    names = {name for name, _ in nasty.attributes}
    assert not any(name.startswith('on') for name in names)
    links = [value for name, value in nasty.attributes if name == 'href']
    assert all(link.startswith('#') for link in links)
    assert EVIL in ''.join(nasty.texts)  # it is shown, as text
  assert any(EVIL in json.dumps(x, ensure_ascii=False).replace('\\"', '"')
             for x in nasty.values())  # fmt: skip


def test_the_page_is_one_file_that_asks_nobody():
  text = page(FULL).html
  reader = Reader(text)
  assert not {'link', 'img', 'iframe'} & set(reader.tags)
  assert not any(name == 'src' for name, _ in reader.attributes)
  policies = [value for _, value in reader.attributes if 'default' in value]
  assert policies == [document.POLICY]
  assert document.POLICY.startswith("default-src 'none'")
  assert len(text.encode()) < 4e6


def test_the_plotting_library_is_the_one_that_was_published():
  data = (document.ASSETS / document.PLOTLY).read_bytes()
  assert hashlib.sha256(data).hexdigest() == document.PLOTLY_SHA256
  assert f'v{document.PLOTLY.split("-")[2][:5]}'.encode() in data[:200]
  licence = (document.ASSETS / 'LICENSE.plotly.txt').read_text()
  assert licence.startswith('MIT License')


def test_no_figure_can_be_sent_to_a_cloud():
  script = document.asset('plots.js')
  assert 'showSendToCloud: false' in script
  assert "plotlyServerURL: ''" in script
  # Only these buttons are there at all.
  assert re.search(r"modeBarButtons: \[\['toImage', [\w', ]+\]\]", script)
  assert 'Plotly.newPlot' not in script


@pytest.mark.parametrize('name', OWN_SCRIPTS)
def test_scripts_put_text_into_the_page_as_text(name):
  script = document.asset(name)
  for word in ('innerHTML', 'outerHTML', 'insertAdjacentHTML', 'eval(',
               'document.write', 'new Function'):  # fmt: skip
    assert word not in script


def test_a_wheel_has_the_files_of_the_page():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  listed = setup['options.package_data']['moejax.page'].split()
  kept = {p for glob in listed for p in (ROOT / 'moejax/page').glob(glob)}
  assert kept == set(document.ASSETS.iterdir())


def test_every_figure_has_a_heading_and_a_table_for_those_who_cannot_see():
  text = page(FULL).html
  figures = re.findall(r'<figure.*?</figure>', text, re.DOTALL)
  assert len(figures) > 10
  ids = re.findall(r'<figure class="plot" id="([\w-]+)"', text)
  assert len(set(ids)) == len(ids) == len(figures)
  for figure in figures:
    assert '<h3' in figure
    assert 'role="img" aria-label="' in figure
    assert '<details class="data">' in figure


def test_facts_of_a_run():
  facts = dict(summary.facts(FULL))
  assert facts['Parameters'] == '9.71 M, of which a token uses 3.96 M'
  assert facts['State'] == 'finished, 40 steps'
  # 40 steps of 8 rows of 256 tokens.
  assert facts['Tokens'] == '81.9 k'
  assert facts['Bits per byte'].startswith('2.250')
  unfinished = dataclasses.replace(FULL, report=None)
  facts = dict(summary.facts(unfinished))
  assert facts['State'] == 'unfinished, at step 40 of 40'
  assert facts['Validation loss'] == '5.000 nats per token'


def test_bits_per_byte_over_steps():
  """Of `code`: loss 5 is 2 bits per byte at the end, so loss 6 is 2.4."""
  frame = curves.bits_frame(FULL)
  first = frame['curves'][0]
  assert first['name'] == 'code'
  assert first['x'] == [20, 40]
  assert first['y'] == pytest.approx([2.4, 2.0])


def test_a_long_curve_is_thinned_and_keeps_its_end():
  values = curves.thinned([*range(10_000)])
  assert len(values) <= curves.MOST_POINTS
  assert values[-1] == 9999
  assert curves.thinned([1, 2, 3]) == [1, 2, 3]


def test_the_slider_has_the_steps_with_loads_and_begins_at_the_last():
  shown = Reader(load.heat_map(FULL)).values()[0]
  assert [frame['frame'] for frame in shown['frames']] == ['20', '40']
  assert shown['choice'] == {
    'by': 'slider', 'label': 'Training step', 'first': 1,
  }  # fmt: skip
  assert shown['frames'][0]['z'][1] == [2, 1, 0.5, 0.5]
  assert shown['rows'] == ['layer 1', 'layer 2']  # layer 0 is dense


def test_layers_with_experts_have_their_numbers_in_the_model():
  every_other = {'model': {'first_dense': 1, 'moe_every': 2}}
  data = PageData('x', config=every_other)
  assert load.layers(data, 3) == [2, 4, 6]


def test_the_map_of_loads_has_gaps_for_experts_that_a_layer_does_not_have():
  row = {'step': 1, 'moe/load': [[1.0, 3.0, 2.0], [2.5, 0.5, np.nan]]}
  (figure,) = Reader(load.heat_map(PageData('x', metrics=[row]))).values()
  (frame,) = figure['frames']
  assert frame['z'] == [[1, 3, 2], [2.5, 0.5, None]]
  assert figure['most'] == 3


def test_domains_have_gaps_for_experts_that_a_layer_does_not_have():
  row = {'domain': 'code', 'uniform': 0.5, 'share': [0.75, None, 0.25]}
  assert domains.frame(0, [row])['z'] == [[1.5, None, 0.5]]


def test_frames_are_spread_evenly():
  assert load.spread(3, 10) == [0, 1, 2]
  assert load.spread(101, 5) == [0, 25, 50, 75, 100]


def test_large_models_do_not_make_a_large_page():
  loads = np.ones((60, 256)).tolist()
  rows = [{'step': i, 'moe/load': loads} for i in range(1, 101)]
  text = load.heat_map(PageData('large', metrics=rows))
  assert len(text) < 1e6


def test_experts_chosen_together_stand_beside_each_other():
  """Experts 0 and 2, and 1 and 3, are pairs."""
  share = np.full((4, 4), 0.1)
  share[0, 2] = share[2, 0] = share[1, 3] = share[3, 1] = 0.8
  order = together.clustered(share)
  places = {expert: place for place, expert in enumerate(order)}
  assert abs(places[0] - places[2]) == 1
  assert abs(places[1] - places[3]) == 1


def test_similar_experts_stand_beside_each_other_on_a_scale_around_zero():
  means, weights, outputs = Reader(similarity.similarity(FULL)).values()
  # By weights 0 and 2 are alike, and 1 and 3; by outputs 0 and 1, 2 and 3.
  for figure, pairs in ((weights, ('02', '13')), (outputs, ('01', '23'))):
    assert (figure['least'], figure['middle'], figure['most']) == (-0.8, 0, 0.8)
    assert [shown['frame'] for shown in figure['frames']] == ['1', '2']
    shown = figure['frames'][0]
    assert shown['rows'] == shown['columns']
    order = ''.join(shown['rows'])
    assert all(p in order or p[::-1] in order for p in pairs)
    at = {name: place for place, name in enumerate(shown['rows'])}
    for i, j in pairs:
      assert shown['z'][at[i]][at[j]] == 0.8
    # Itself, and a pair that no token chose.
    assert shown['z'][at['1']][at['1']] is None
    assert shown['z'][at['0']][at['3']] is None
  names = {curve['name']: curve for curve in means['curves']}
  assert names['weights']['y'] == [0.02, 0.02]
  assert names['outputs']['low'] == [0.1, 0.1]
  assert 'low' not in names['weights']


def test_of_many_experts_those_like_another_are_shown():
  cosine = np.full((100, 100), 0.01)
  cosine[7, 90] = cosine[90, 7] = 0.5
  shown = similarity.frame({'layer': 3, 'matrix': cosine.tolist()})
  assert len(shown['z']) == together.MOST_EXPERTS
  assert abs(shown['rows'].index('7') - shown['rows'].index('90')) == 1


@pytest.mark.parametrize('name', similarity.KINDS)
def test_one_kind_of_similarity_alone_is_shown(name):
  rows = FULL.measures[name]
  text = similarity.similarity(PageData('x', measures={name: rows}))
  assert [f['kind'] for f in Reader(text).values()] == ['lines', 'heat']
  alone = {'layer 0': {'layer': 0, 'mean': None, 'matrix': [[1.0]]}}
  text = similarity.similarity(PageData('x', measures={name: alone}))
  assert [f['kind'] for f in Reader(text).values()] == ['heat']


def test_the_map_of_domains_is_relative_to_the_uniform_share():
  shown = Reader(domains.domains(FULL)).values()[0]
  # layer 1, code: shares 0.9, 0.5, 0.3, 0.3 of a token's 2 of 4 experts.
  assert shown['frames'][0]['z'][0] == [1.8, 1, 0.6, 0.6]
  assert shown['middle'] == 1


def test_text_is_packed_for_the_page():
  value = Reader(coloured.coloured(FULL)).values()[0]
  trace = FULL.trace
  spans = [(d['begin'], d['end']) for d in value['documents']]
  assert spans == [(0, 3), (3, 6)]
  assert value['texts'] == list(FULL.texts)
  assert value['pictures'] == [[1, 3, 2]]
  ids = np.frombuffer(base64.b64decode(value['experts']), '<u2')
  want = trace.expert_TNK.astype(int)
  want[want < 0] = 65535
  np.testing.assert_array_equal(ids.reshape(trace.expert_TNK.shape), want)
  weights = (
    np.frombuffer(base64.b64decode(value['weights']), '<u2') * value['unit']
  )
  np.testing.assert_allclose(
    weights.reshape(trace.weight_TNK.shape), trace.weight_TNK, atol=1e-4
  )


def test_pictures_that_are_cut_are_left_out():
  tokens = np.array([0, 1, 2, 3, 4, 10, 11, 12])
  listed = [Picture(1, 4, 2), Picture(4, 8, 2), Picture(10, 13, 3)]
  assert coloured.shown(listed, tokens) == [(1, 4, 2), (5, 8, 3)]
  assert coloured.shown([Picture(12, 15, 3)], tokens) == []


def test_a_long_trace_is_cut_to_what_a_page_can_hold(monkeypatch):
  monkeypatch.setattr(coloured, 'MOST_NUMBERS', 10_000)
  trace = page_data.trace(num_tokens=50_000, documents=10)
  chosen = coloured.documents(trace)
  tokens = sum(end - begin for _, begin, end in chosen)
  numbers = tokens * len(trace.layers) * trace.k
  assert numbers == 10_000
  assert all(begin < end for _, begin, end in chosen)
  assert all(end - begin <= coloured.MOST_TOKENS for _, begin, end in chosen)
  assert {name.split(',')[0] for name, *_ in chosen} == {'code', 'bible'}


def test_values_of_an_intervention_have_their_places():
  rows = FULL.interventions['mask_top']['rows']
  assert interventions.places(rows) == {'0': 0.0, '1/8': 0.125}
  names = [{'value': None}, {'value': 'all', 'number': None}]
  assert interventions.places(names) == {None: 'unchanged', 'all': 'all'}


def test_a_run_has_one_colour_in_all_figures_of_a_comparison():
  """The first run is dense: it has a loss, and no routers."""
  dense = dataclasses.replace(
    FULL,
    name='dense',
    metrics=[{'step': 20, 'eval/loss': 6.0}],
    measures={},
  )
  shown = Reader(comparison([dense, FULL]).html).values()
  lines = [figure for figure in shown if figure['kind'] == 'lines']
  assert len(lines) == 3
  for figure in lines:
    for frame in figure['frames']:
      for curve in frame['curves']:
        assert curve['colour'] == (0 if curve['name'] == 'dense' else 1)
  names = [[c['name'] for c in figure['frames'][0]['curves']]
           for figure in lines]  # fmt: skip
  assert names == [['dense', 'tiny'], ['tiny'], ['tiny']]
  assert 'curve.colour ?? number++' in document.asset('plots.js')


def test_keys_of_experts_are_not_those_of_a_dense_model():
  moe = {'num_experts': 0, 'num_shared': 3, 'router': {'name': 'switch'}}
  config = {**FULL.config, 'model': {**FULL.config['model'], 'moe': moe}}
  dense = dataclasses.replace(FULL, name='dense', config=config)
  text = comparison([dense, FULL]).html
  head = '<th scope="row">model.moe.'
  assert f'{head}num_experts</th><td>0</td><td>4</td>' in text
  assert text.count(head) == 1
  # Those that differ between the others are shown.
  more = {**FULL.config['model']['moe'], 'num_shared': 2}
  config = {**FULL.config, 'model': {**FULL.config['model'], 'moe': more}}
  other = dataclasses.replace(FULL, name='other', config=config)
  text = comparison([FULL, dense, other]).html
  assert f'{head}num_shared</th><td>1</td><td>–</td><td>2</td>' in text
  assert text.count(head) == 2


def test_only_keys_that_differ_are_compared():
  other = dataclasses.replace(FULL, name='b', config={**FULL.config, 'seed': 1})
  text = comparison([dataclasses.replace(FULL, name='a'), other]).html
  assert '<th scope="row">seed</th><td>0</td><td>1</td>' in text
  assert '<th scope="row">model.width</th>' not in text
