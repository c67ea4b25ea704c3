"""`data.sources`: the user's own mixture from the config alone."""

import json

import numpy as np
import pytest

from moejax import config as configs
from moejax.core import config_tree, errors, resume
from moejax.data import build, config, sources, tasks, vocab


def _write(path, word, count):
  lines = [json.dumps({'text': f'{word} {n} ' * 9}) for n in range(count)]
  path.write_text('\n'.join(lines))
  return str(path)


@pytest.fixture(name='texts', scope='module')
def _texts(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  _write(folder / 'web.jsonl', 'web', 400)
  _write(folder / 'code.jsonl', 'code', 300)
  _write(folder / 'held.jsonl', 'held', 20)
  return folder


def _data(texts, flags=(), **keys):
  own = config.DataConfig(
    vocab=vocab.Bytes(),
    sequence_length=32,
    max_documents=keys.pop('max_documents', 0),
    cache_dir=str(texts / 'cache'),
    **keys,
  )
  flags = [(f'sources.{key}', text.format(texts=texts)) for key, text in flags]
  return config_tree.override_all(own, flags)


TWO = (
  ('web.files', '{texts}/web.jsonl'),
  ('web.rate', '3'),
  ('code.files', '{texts}/code.jsonl'),
  ('code.validation_files', '{texts}/held.jsonl'),
)


def _words(reader):
  target_NL, _ = reader.rows(np.arange(reader.num_rows))
  text = vocab.Bytes().decode(target_NL.reshape(-1).tolist())
  return {word for word in ('web', 'code', 'held') if word in text}


def test_two_sources_with_validation_of_their_own(texts):
  data = build.build(_data(texts, TWO), 8, 0)
  assert data.train.domains == ('code', 'web')
  assert data.train.quota_D.tolist() == [256, 768]
  assert {k: d.rate for k, d in data.domains.items()} == {'code': 1, 'web': 3}
  found = {
    (name, split): _words(getattr(domain, split))
    for name, domain in data.domains.items()
    for split in ('train', 'validation')
  }
  assert found == {
    ('code', 'train'): {'code'},
    ('code', 'validation'): {'held'},
    ('web', 'train'): {'web'},
    ('web', 'validation'): {'web'},
  }
  assert set(build.identity(data)) == set(build.contents(data))


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_and_a_resumed_run_read_the_same(texts, hosts):
  data_config = _data(texts, TWO)
  data = build.build(data_config, 8, 0)
  whole = [data.train.batch(step).target_BL for step in range(300)]
  again = build.build(data_config, 8, 0).train.iterate(250)
  np.testing.assert_array_equal(next(again).target_BL, whole[250])
  again.close()
  size = 8 // hosts
  for step in (0, 299):
    parts = [
      data.train.batch(step, slice(h * size, (h + 1) * size)).target_BL
      for h in range(hosts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole[step])
  # Each epoch of a source has each of its rows once, in another order.
  domain_N, row_N = data.train.locate(np.arange(8 * 1024))
  order = row_N[domain_N == data.train.domains.index('code')].tolist()
  size = data.domains['code'].train.num_rows
  first, second = order[:size], order[size : 2 * size]
  assert sorted(first) == sorted(second) == list(range(size))
  assert first != second


def test_one_source_is_data_files(texts):
  path = f'{texts}/web.jsonl'
  one = build.build(_data(texts, [('files.files', path)]), 8, 0)
  other = build.build(_data(texts, files=path), 8, 0)
  assert build.identity(one) == build.identity(other)
  np.testing.assert_array_equal(
    one.train.batch(7).target_BL, other.train.batch(7).target_BL
  )


def test_sources_that_are_tasks_are_the_mixture_of_them(texts):
  names = ('code', 'dictionary', 'factbook', 'scripture', 'speeches')
  flags = [(f'{name}.task', f'minipile_{name}') for name in names]
  one = build.build(_data(texts, flags, max_documents=2), 8, 0)
  other = build.build(_data(texts, max_documents=2), 8, 0)
  assert build.identity(one) == build.identity(other)
  for step in (0, 200):
    np.testing.assert_array_equal(
      one.train.batch(step).target_BL, other.train.batch(step).target_BL
    )


def test_a_renamed_source_is_not_packed_again(texts):
  data = [
    build.build(_data(texts, [(f'{name}.files', f'{texts}/web.jsonl')]), 8, 0)
    for name in ('one', 'two')
  ]
  assert {*build.identity(data[0]).values()} == {
    *build.identity(data[1]).values()
  }


def test_the_lines_of_sources_have_their_names(texts, tmp_path):
  data_config = _data(texts, TWO, max_documents=3)
  names = []
  build.build(
    data_config, 8, 0, lambda p: names.append(p.name) if p.done else None
  )
  assert sorted(names) == [
    'code train',
    'code validation',
    'web train',
    'web validation',
  ]
  assert build.num_caches(data_config) == 4


def test_a_mixture_by_size(texts):
  data = build.build(_data(texts, TWO[:1] + TWO[2:], temperature=1.0), 8, 0)
  tokens = [domain.train.num_tokens for domain in data.domains.values()]
  share = tokens[0] / sum(tokens)
  assert data.train.quota_D[0] == pytest.approx(share * 1024, abs=1)


def _error(texts, flags, steps=0, **keys):
  def start():
    data_config = _data(texts, flags, **keys)
    data_config.check()
    data_config.check_used()
    build.build(data_config, 8, 0, steps=steps)

  with pytest.raises(errors.InputError) as caught:
    start()
  (line,) = str(caught.value).splitlines()
  return line


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ([('web.fils', 'x')], "did you mean 'sources.web.files'"),
    ([('web.name', 'x')], "unknown config key 'sources.web.name'"),
    ([('we+b.files', 'x')], "the name 'we+b' may have letters, digits"),
    ([('web.rate', '-1')], 'web.rate=-1.0 must be'),
    ([('web.rate', '0'), ('code.rate', '0')], 'code, web sum to nothing'),
    ([('web.task', 'c4')], 'names several texts, files='),
    ([('x.rate', '2')], 'names no text: set one of data.sources.x.files'),
    ([('x.task', 'c5')], "unknown data.sources.x.task 'c5'; did you mean 'c4'"),
    (
      [('x.task', 'c4'), ('x.bad_lines', 'skip')],
      "data.sources.x.bad_lines='skip' has no effect on a source of task",
    ),
    ([('Web.files', 'x')], "two sources with one name, 'Web' and 'web'"),
    ([('web.tokens', '9')], 'has rate=3 and tokens=9: give one'),
    ([('code.tokens', '9')], 'web has none: set data.sources.web.tokens'),
    ([('web.files', '{texts}/no')], "data.sources.web.files='"),
    (
      [('web.text_field', 'body')],
      "no field 'body' (data.sources.web.text_field)",
    ),
    (
      [('web.validation_fraction', '0.0001'), ('web.files', '{texts}/a.txt')],
      'set data.sources.web.validation_files',
    ),
  ],
)
def test_bad_sources_are_one_line(texts, flags, words):
  (texts / 'a.txt').write_text('a')
  base = [pair for pair in TWO if pair[0] not in dict(flags)]
  assert words in _error(texts, [*base, *flags])


def test_a_source_without_documents_is_one_line(texts):
  (texts / 'blank.jsonl').write_text('\n')
  line = _error(texts, [('x.files', '{texts}/blank.jsonl')])
  assert 'blank.jsonl: empty' in line


def test_sources_beside_other_keys_are_one_line(texts):
  assert 'would take the place of data.sources' in _error(texts, TWO, files='x')
  assert 'mixes data.sources' in _error(texts, (), temperature=2.0)
  budgets = [('web.tokens', '9'), ('web.files', 'x')]
  assert 'no effect on token budgets' in _error(texts, budgets, temperature=2.0)


def test_a_source_that_ends_before_the_run_is_one_line(texts):
  line = _error(texts, [*TWO, ('web.max_epochs', '1')], steps=10_000)
  assert 'data.sources.web is used up after step ' in line


def test_two_sources_of_one_name_in_python():
  two = (sources.Source('a', files='x'), sources.Source('a', files='y'))
  with pytest.raises(errors.InputError, match="one name, 'a' and 'a'"):
    config.DataConfig(sources=two).check()


def test_sources_in_a_config_file_and_in_flags():
  tree = configs.default()
  tree.data.sources = {'b': {'files': 'x', 'rate': 2}, 'a': {'task': 'c4'}}
  run = config_tree.from_config_dict(configs.Run, tree)
  assert run.data.sources == (
    sources.Source('a', task='c4'),
    sources.Source('b', files='x', rate=2.0),
  )
  for again in (config_tree.to_dict(run), config_tree.to_config_dict(run)):
    assert config_tree.from_config_dict(configs.Run, again) == run
  flags = [('data.sources.a', 'off'), ('data.sources.b.rate', '3')]
  changed = config_tree.override_all(run, flags)
  assert changed.data.sources == (sources.Source('b', files='x', rate=3.0),)
  with pytest.raises(errors.InputError, match='contradict'):
    config_tree.override_all(
      run, [('data.sources.a', 'off'), ('data.sources.a.rate', '3')]
    )


def test_the_effect_of_another_value_on_a_resumed_run():
  a, b = sources.Source('a', files='x'), sources.Source('b', files='x')
  old = config.DataConfig(sources=(a, b))
  new = config.DataConfig(
    sources=(
      sources.Source('a', files='y', rate=2.0, max_epochs=1.0),
      sources.Source('c', files='x'),
    )
  )
  changed = resume.changes(old, new)
  assert 'sources.a.rate' in changed[resume.RESULT]
  assert 'sources.a.files' in changed[resume.TEXT]
  assert 'sources.a.max_epochs' in changed[resume.NOTHING]
  assert {'sources.b.rate', 'sources.c.rate'} <= {*changed[resume.RESULT]}


def test_a_cache_of_another_tokenizer_is_named(tmp_path, monkeypatch):
  """On a machine with a copied cache and without the text."""

  def rows(*_, **__):
    yield from (f'row {n} of the hub' for n in range(9))

  monkeypatch.setattr(tasks.HuggingFace, 'stream', rows)
  flags = [('sources.web.huggingface', 'some/path')]
  own = config.DataConfig(
    vocab=vocab.Bytes(), sequence_length=16, cache_dir=str(tmp_path)
  )
  own = config_tree.override_all(own, flags)
  packed = build.build(own, 4, 0)

  def fail(*_):
    raise errors.InputError('no hub')

  monkeypatch.setattr(tasks.HuggingFace, 'stream', fail)
  assert build.identity(build.build(own, 4, 0)) == build.identity(packed)
  other = config_tree.override(own, 'vocab', 'sentencepiece')
  folder = packed.domains['web'].train.path
  with pytest.raises(errors.InputError) as caught:
    build.build(other, 4, 0)
  assert str(caught.value) == (
    f'no hub; {folder} has rows of this text that were made with another '
    'data.vocab: to use them, set it as it was'
  )
  longer = config_tree.override(other, 'sequence_length', '32')
  with pytest.raises(errors.InputError, match='data.sequence_length and data'):
    build.build(longer, 4, 0)
  # Another text has no such cache.
  text = config_tree.override(other, 'sources.web.huggingface', 'other/path')
  with pytest.raises(errors.InputError, match='^no hub$'):
    build.build(text, 4, 0)


def test_a_rounded_rate_is_said_when_the_data_is_opened(texts):
  flags = [*TWO[:1], ('web.rate', '1e-5'), *TWO[2:]]
  notes = []
  build.build(
    _data(texts, flags),
    8,
    0,
    lambda p: notes.append((p.name, p.note)) if p.note else None,
  )
  (line,) = [note for name, note in notes if name == 'web']
  assert line.startswith('data.sources.web is read as 1 of every 1,024 rows')
