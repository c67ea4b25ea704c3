"""The cache as a Beam pipeline: the bytes of the local command, in any order.

Most tests run the stages of the pipeline by hand. Those marked `beam` run Beam
itself, in the Python that MOEJAX_BEAM_PYTHON names (`make test-beam`).
"""

import argparse
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import types

import pytest

from moejax.core import errors
from moejax.data import (
  beam_cache,
  beam_stages,
  cache,
  files,
  long_text,
  packings,
  stepped,
  tasks,
)
from moejax.data.steps.length import Length
from moejax.data.steps.near_duplicates import NearDuplicates
from tests.data import beam_side

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = os.environ.get('MOEJAX_BEAM_PYTHON', sys.executable)
needs_beam = pytest.mark.skipif(
  'MOEJAX_BEAM_PYTHON' not in os.environ
  and importlib.util.find_spec('apache_beam') is None,
  reason='MOEJAX_BEAM_PYTHON names no Python with Apache Beam',
)


def _write_texts(folder):
  """Eleven files with documents of many lengths, empty ones and bad ones."""
  rng = random.Random(0)
  texts = folder / 'texts'
  texts.mkdir(parents=True)
  for number in range(10):
    lines = [
      json.dumps({'text': f'é line {number} {i} ' * rng.randrange(9)})
      for i in range(rng.randrange(1, 40))
    ]
    # Documents of several files are equal.
    lines += [json.dumps({'text': f'the same {n} ' * 4}) for n in range(3)]
    if number in {2, 7}:
      lines.insert(1, '{broken')
    (texts / f'{number}.jsonl').write_text('\n'.join(lines))
  whole = ''.join(f'line {i} of a long document\n' for i in range(300))
  (texts / 'long.txt').write_text(whole)


def _bytes(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != 'sums.json' and path.suffix != '.lock'
  }


def _local(folder, steps=''):
  own = beam_side.text(folder, steps)
  request = beam_side.request(folder / 'local', processes=1)
  for split in own.splits:
    own.rows(split, request)
  return _bytes(folder / 'local')


class _Tagged:
  def __init__(self, tag, value):
    self.tag, self.value = tag, value


@pytest.fixture
def by_hand(monkeypatch):
  """Runs the stages in this process, in an order of each test's choice."""
  beam = types.SimpleNamespace(
    pvalue=types.SimpleNamespace(TaggedOutput=_Tagged)
  )
  monkeypatch.setitem(sys.modules, 'apache_beam', beam)
  monkeypatch.setattr(beam_cache, 'beam_options', lambda flags: None)

  def save(path, blocks):
    pathlib.Path(path).write_bytes(b''.join(blocks))

  monkeypatch.setattr(beam_stages, 'save', save)
  monkeypatch.setattr(beam_cache.stages, 'save', save)

  def run(text, split, layout, flags, folder):
    rng = random.Random(flags)
    shards = [*enumerate(text.shards(split))]
    if text.compares_shards:
      shards = _compared(shards, text, split, rng)
    encoded = []
    for item in _shuffled(shards, rng):
      encoded += beam_stages.encode(item, text, split, layout)
    pieces, counts = _untagged(_shuffled(encoded, rng))
    first = beam_stages.first_places(counts)
    tokens = []
    for piece in pieces:
      tokens += beam_stages.cut(piece, first, layout)
    tokens, num_cut = _untagged(_shuffled(tokens, rng))
    groups = {}
    for number, value in tokens:
      groups.setdefault(number, []).append(value)
    written = [
      beam_stages.write_shard(group, layout, folder)
      for group in _shuffled(groups.items(), rng)
    ]
    counts.sort(key=lambda count: count.shard)
    written.sort(key=lambda shard: shard.file)
    return counts, written, sum(num_cut)

  monkeypatch.setattr(beam_cache, '_run', run)


def _compared(shards, text, split, rng):
  """Step 0 of the pipeline by hand."""
  keys = []
  for item in _shuffled(shards, rng):
    keys += beam_stages.keys(item, text, split)
  places = {}
  for key, place in _shuffled(keys, rng):
    places.setdefault(key, []).append(place)
  repeated = {number: [] for number, _ in shards}
  for group in _shuffled(places.items(), rng):
    for shard, number in beam_stages.repeated(group):
      repeated[shard].append(number)
  return [
    beam_stages.joined((n, {'source': [source], 'repeated': repeated[n]}))
    for n, source in shards
  ]


def _shuffled(items, rng):
  items = list(items)
  rng.shuffle(items)
  return items


def _untagged(items):
  main = [item for item in items if not isinstance(item, _Tagged)]
  return main, [item.value for item in items if isinstance(item, _Tagged)]


@pytest.fixture
def small(monkeypatch):
  for name, value in {'LONG': 900, 'PIECE': 400, 'WINDOW': 128}.items():
    monkeypatch.setattr(long_text, name, value)


@pytest.mark.parametrize('order', ['a', 'b'])
def test_the_bytes_are_those_of_the_local_command(
  order, by_hand, small, tmp_path
):
  _write_texts(tmp_path)
  local = _local(tmp_path)
  beam_side.main(str(tmp_path), order)
  assert _bytes(tmp_path / 'caches') == local
  assert len(local) > 10
  (meta,) = (
    local[name] for name in local if 'train' in name and 'meta' in name
  )
  assert json.loads(meta)['num_cut'] > 10
  assert 'fill_in_middle' in json.loads(meta)['spec']['vocab']
  assert 'left out 2 bad documents' in json.loads(meta)['notes'][0]


@pytest.mark.parametrize(
  'steps',
  [
    'length,quality',
    'length,exact_duplicates,quality',
    'quality,exact_duplicates,length',
  ],
)
def test_steps_keep_and_count_what_the_local_command_does(
  steps, by_hand, small, tmp_path
):
  """Whether before the step that compares documents, or behind it."""
  _write_texts(tmp_path)
  local = _local(tmp_path, steps)
  beam_side.main(str(tmp_path), 'a', steps)
  assert _bytes(tmp_path / 'caches') == local
  (meta,) = (
    json.loads(local[name])
    for name in local
    if 'train' in name and 'meta' in name
  )
  removed = {step['step']: step['documents'] for step in meta['removed']}
  assert [*removed] == steps.split(',')
  assert all(removed.values())
  assert 'steps removed' in meta['notes'][-1]
  assert meta['num_documents'] > 30


def test_steps_that_leave_nothing_are_the_line_of_the_local_command(
  by_hand, tmp_path
):
  _write_texts(tmp_path)
  own = stepped.with_steps(
    beam_side.text(tmp_path), {'length': Length(min_characters=10**6)}
  )
  messages = []
  for make in (own.rows, lambda *args: beam_cache.make(own, *args)):
    with pytest.raises(errors.InputError) as caught:
      make('train', beam_side.request(tmp_path / 'caches', processes=1))
    messages.append(str(caught.value))
  assert messages[0] == messages[1]
  assert 'no document of files train is left' in messages[0]


@pytest.mark.soak
def test_a_shipped_text_and_a_finished_cache(by_hand, tmp_path):
  text = tasks.TASKS['minipile_factbook']
  local = beam_side.request(tmp_path / 'local')
  text.rows('validation', local)
  request = beam_side.request(tmp_path / 'beam')
  made = beam_cache.make(text, 'validation', request)
  assert _bytes(tmp_path / 'beam') == _bytes(tmp_path / 'local')
  before = pathlib.Path(made, cache.META).stat().st_mtime_ns
  assert beam_cache.make(text, 'validation', request) == made
  assert pathlib.Path(made, cache.META).stat().st_mtime_ns == before


def test_empty_documents_among_many_are_left_out(by_hand, tmp_path):
  """Of few documents, whose ends are held out, they are left out before.

  And a cache that is there is not written again.
  """
  texts = ['' if i % 9 == 0 else f'document {i}' for i in range(250)]
  lines = [json.dumps({'text': text}) for text in texts]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  own = files.Files(str(tmp_path / 'a.jsonl'))
  own.rows('train', beam_side.request(tmp_path / 'local', processes=1))
  request = beam_side.request(tmp_path / 'beam')
  made = beam_cache.make(own, 'train', request)
  assert _bytes(tmp_path / 'beam') == _bytes(tmp_path / 'local')
  meta = pathlib.Path(made, cache.META)
  assert json.loads(meta.read_text())['num_documents'] < 222
  before = meta.stat().st_mtime_ns
  assert beam_cache.make(own, 'train', request) == made
  assert meta.stat().st_mtime_ns == before


def test_a_bad_document_is_the_line_of_the_local_command(by_hand, tmp_path):
  _write_texts(tmp_path)
  own = files.Files(str(tmp_path / 'texts'))
  messages = []
  for make in (own.rows, lambda *args: beam_cache.make(own, *args)):
    with pytest.raises(errors.InputError) as caught:
      make('train', beam_side.request(tmp_path / 'caches'))
    messages.append(str(caught.value))
  assert messages[0] == messages[1]
  assert '2 bad documents' in messages[0]


def test_an_error_while_reading_a_file_is_raised_here(by_hand, tmp_path):
  _write_texts(tmp_path)
  (tmp_path / 'texts' / '5.jsonl').write_text('{"other": "field"}')
  own = files.Files(str(tmp_path / 'texts'), bad_lines='skip')
  with pytest.raises(errors.InputError, match=r'5\.jsonl:1: no field'):
    beam_cache.make(own, 'train', beam_side.request(tmp_path / 'caches'))
  assert not list((tmp_path / 'caches').glob('*/meta.json'))


def test_an_error_of_a_worker_is_raised_here(by_hand, tmp_path):
  """In a file behind those that decide what is held out."""
  lines = [json.dumps({'text': f'document {i}'}) for i in range(250)]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'b.jsonl').write_text('{"other": "field"}')
  own = files.Files(str(tmp_path), bad_lines='skip')
  with pytest.raises(errors.InputError, match=r'b\.jsonl:1: no field'):
    beam_cache.make(own, 'train', beam_side.request(tmp_path / 'caches'))
  assert not list((tmp_path / 'caches').glob('*/meta.json'))


@pytest.mark.parametrize(
  ('text', 'options', 'words'),
  [
    (tasks.TASKS['c4'], {}, 'c4 cannot be packed with --beam'),
    (tasks.TASKS['minipile_code'], {'max_documents': 3}, 'max_documents=3'),
    (
      tasks.TASKS['minipile_code'],
      {'packing': packings.BestFit()},
      'only documents laid end to end',
    ),
    (
      stepped.with_steps(
        tasks.TASKS['minipile_code'], {'near_duplicates': NearDuplicates()}
      ),
      {},
      'data.steps.near_duplicates reads the documents in the order',
    ),
  ],
)
def test_what_has_no_places_beforehand_is_refused(
  text, options, words, tmp_path
):
  request = beam_side.request(tmp_path, **options)
  with pytest.raises(errors.InputError) as caught:
    beam_cache.make(text, 'train', request)
  assert words in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_beam_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  request = beam_side.request(tmp_path)
  with pytest.raises(errors.InputError) as caught:
    beam_cache.make(tasks.TASKS['minipile_code'], 'train', request)
  message = str(caught.value)
  assert message.startswith("--beam needs 'moejax[beam]', which cannot be")
  assert message.endswith('or pack without --beam')
  assert len(message.splitlines()) == 1


def test_flags_with_an_open_quote_are_one_line():
  with pytest.raises(errors.InputError, match='No closing quotation; quote'):
    beam_cache.beam_options('--runner="x')


def test_a_flag_that_beam_refuses_is_one_line(monkeypatch, capsys):
  def parse(words):
    flags = argparse.ArgumentParser()
    flags.add_argument('--num_workers', type=int)
    flags.parse_known_args(words)

  options = types.SimpleNamespace(PipelineOptions=parse)
  names = {
    'apache_beam': types.SimpleNamespace(runners=None),
    'apache_beam.options': types.SimpleNamespace(pipeline_options=options),
  }
  for name, module in names.items():
    monkeypatch.setitem(sys.modules, name, module)
  with pytest.raises(errors.InputError, match=r"int value: 'x'; --beam=--help"):
    beam_cache.beam_options('--num_workers=x')
  assert capsys.readouterr().err == ''


def _beam(code, *words):
  return subprocess.run(
    [PYTHON, *code, *words],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.beam
@needs_beam
@pytest.mark.parametrize(
  ('flags', 'steps'),
  [
    ('', ''),
    ('--direct_num_workers=2', ''),
    ('', 'length,exact_duplicates,quality'),
  ],
)
def test_beam_itself_writes_the_same_bytes(flags, steps, tmp_path):
  _write_texts(tmp_path)
  done = _beam(['-m', 'tests.data.beam_side'], str(tmp_path), flags, steps)
  assert done.returncode == 0, done.stderr
  assert _bytes(tmp_path / 'caches') == _local(tmp_path, steps)


@pytest.mark.beam
@needs_beam
@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ('--runner=NoSuchRunner', "the runner 'NoSuchRunner' cannot be used"),
    ('--runner=DataflowRunner', 'failed on DataflowRunner: '),
    ('--runer=DirectRunner', 'Beam has no flag --runer for a pipeline'),
    ('--num_workers=x', "invalid int value: 'x'; --beam=--help lists"),
  ],
)
def test_a_runner_that_is_not_installed_is_one_line(flags, words, tmp_path):
  config = ROOT / 'configs' / 'tiny.py'
  code = [
    *('-m', 'moejax.cli.cache', f'--config={config}', f'--beam={flags}'),
    f'--config.data.cache_dir={tmp_path}',
  ]
  done = _beam(code)
  assert done.returncode == 2, done.stderr
  lines = done.stderr.strip().splitlines()
  assert words in lines[-1]
  assert 'Traceback' not in done.stderr
