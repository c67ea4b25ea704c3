"""A text with steps: what is kept, what is counted, what a cache says."""

import json
import pickle

import numpy as np
import pytest

from moejax import config
from moejax.core import config_tree, errors
from moejax.data import (
  build,
  cache,
  cache_writer,
  encoding,
  long_text,
  seqio_bridge,
  stepped,
  tasks,
  vocab,
)
from moejax.data.config import DataConfig
from moejax.data.steps import STEPS, base
from moejax.data.steps.exact_duplicates import ExactDuplicates
from moejax.data.steps.length import Length
from moejax.data.steps.quality import Quality

TEXTS = [
  'one document',
  'tiny',
  'ONE  document',
  'another document',
  'Tiny',
  'one more document',
]
STEPPED = {
  'length': Length(min_characters=6),
  'exact_duplicates': ExactDuplicates(),
}
KEPT = ['one document', 'another document', 'one more document']


@pytest.fixture
def folder(tmp_path):
  """The texts for training, others for validation."""
  lines = [json.dumps({'text': text}) for text in TEXTS]
  (tmp_path / 'train.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'held_out.txt').write_text('a document for validation')
  return tmp_path


def _config(folder, **keys):
  return DataConfig(
    files=str(folder / 'train.jsonl'),
    validation_files=str(folder / 'held_out.txt'),
    vocab=vocab.Bytes(),
    sequence_length=8,
    cache_dir=str(folder / 'caches'),
    **keys,
  )


def _decoded(rows):
  packed = rows.rows(np.arange(rows.num_rows))
  ids = packed.target_NL[packed.segment_NL != 0].tolist()
  return vocab.Bytes().decode([i if i != 1 else 3 + 10 for i in ids])


def test_a_cache_holds_the_documents_that_are_kept(folder):
  data = build.build(_config(folder, steps=tuple(STEPPED.values())), 1, 0)
  train = data.domains['files'].train
  assert _decoded(train).splitlines() == KEPT
  assert train.meta.num_documents == 3
  assert train.meta.num_bytes == sum(map(len, KEPT))


def test_a_cache_says_what_each_step_removed(folder):
  notes = []
  data = build.build(
    _config(folder, steps=tuple(STEPPED.values())),
    1,
    0,
    lambda progress: notes.append(progress.note),
  )
  domain = data.domains['files']
  # 'tiny' and 'Tiny' are short: 8 of 66 bytes. Of the others, 'ONE  document'
  # has come before: 13 of 58 bytes.
  removed = (
    base.Removed('length', 6, 66, 2, 8, {'min_characters': 2}),
    base.Removed('exact_duplicates', 4, 58, 1, 13, {'duplicate': 1}),
  )
  assert sum(map(len, TEXTS)) == 66
  assert domain.train.meta.removed == removed
  assert [r.documents for r in domain.validation.meta.removed] == [0, 0]
  meta = (domain.train.path / cache.META).read_text()
  assert cache.Meta.from_json(meta) == domain.train.meta
  line = (
    'steps removed 3 of 6 documents (length 2, exact_duplicates 1), 31.8% of '
    '66 bytes'
  )
  assert line in notes
  assert domain.train.meta.notes == (line,)


def test_steps_are_part_of_what_a_cache_is_made_from(folder):
  def names(**keys):
    data = build.build(_config(folder, **keys), 1, 0)
    return data.domains['files'].train.fingerprint

  length, exact = STEPPED.values()
  made = [
    names(),
    names(steps=(length,)),
    names(steps=(Length(min_characters=7),)),
    names(steps=(length, exact)),
    names(steps=(length, exact), step_order=('exact_duplicates', 'length')),
  ]
  assert len(set(made)) == 5
  assert made[0] == names(steps=())


def test_without_steps_a_text_is_as_it_was():
  text = tasks.TASKS['minipile_code']
  assert stepped.with_steps(text, {}) is text


def test_the_order_of_the_config_is_the_order_of_the_steps():
  length, exact = STEPPED.values()
  both = (length, exact)
  assert list(stepped.in_order(both, ())) == ['length', 'exact_duplicates']
  order = ('exact_duplicates', 'length')
  assert list(stepped.in_order(both, order)) == list(order)


@pytest.mark.parametrize(
  ('order', 'match'),
  [
    (('length',), 'must name each .* once: length, exact_duplicates'),
    (('length', 'length'), 'step_order=length,length: it must name each'),
    (('length', 'quality'), 'must name each'),
    (('length', 'exact'), "unknown data.step_order 'exact'"),
    (('exact_duplicate',), "did you mean 'exact_duplicates'"),
  ],
)
def test_an_order_of_other_steps_is_refused_in_one_line(order, match):
  data = DataConfig(steps=tuple(STEPPED.values()), step_order=order)
  with pytest.raises(errors.InputError, match=match) as error:
    data.check()
  assert '\n' not in str(error.value)


def test_flags_turn_steps_on_and_order_them():
  flags = [
    ('data.steps.quality', 'on'),
    ('data.steps.length.min_characters', '9'),
    ('data.steps.repetition.max_top_ngram', '0.3,0.2,0.1'),
    ('data.step_order', 'quality,repetition,length'),
  ]
  run = config_tree.override_all(config.Run(), flags)
  assert list(stepped.in_order(run.data.steps, run.data.step_order)) == [
    'quality',
    'repetition',
    'length',
  ]
  assert Length(min_characters=9) in run.data.steps
  assert (
    config_tree.from_config_dict(config.Run, config_tree.to_config_dict(run))
    == run
  )
  with pytest.raises(errors.InputError, match="did you mean 'quality'"):
    config_tree.override(run, 'data.steps.qualty', 'on')


def test_a_text_of_which_nothing_is_left_is_an_error(folder):
  with pytest.raises(
    errors.InputError,
    match='no document of files train is left: steps removed 6 of 6 documents '
    r'\(length 6\), 100.0% of 66 bytes',
  ):
    build.build(_config(folder, steps=(Length(min_characters=99),)), 1, 0)


def test_made_up_rows_have_no_text_for_steps():
  data = DataConfig(mixture='synthetic', steps=(Length(),))
  with pytest.raises(errors.InputError, match='leave out data.steps.length'):
    build.build(data, 1, 0)


def test_a_limit_counts_the_documents_that_are_kept(folder):
  keys = {'steps': tuple(STEPPED.values()), 'max_documents': 2}
  train = build.build(_config(folder, **keys), 1, 0).domains['files'].train
  assert _decoded(train).splitlines() == KEPT[:2]
  # The pass ends at the second document kept, the fourth of the text.
  assert train.meta.removed[0].documents_before == 4


class _Interrupted(cache_writer.TextSource):
  """A text of short documents, which stops at one of them."""

  name, domain = 'words', 'words'
  splits = ('train', 'validation')

  def __init__(self, stop=-1):
    self.stop = stop

  def identity(self, split, sums):
    return {}

  def texts(self, split, note=lambda _: None):
    for number in range(60):
      if number == self.stop:
        raise KeyboardInterrupt
      yield f'document {"long " * (number % 7)}{number % 5}'


def _request(folder):
  return cache_writer.Request(
    vocab=vocab.Bytes(), length=8, folder=folder, rows_per_shard=2
  )


def test_an_interrupted_cache_becomes_the_same(tmp_path, monkeypatch):
  monkeypatch.setattr(encoding, 'JOB', 1)  # else no row is written in between
  steps = {'exact_duplicates': ExactDuplicates(), 'length': Length(16)}
  whole = stepped.Stepped(_Interrupted(), steps)
  want = whole.rows('train', _request(tmp_path / 'whole'))
  for stop in (20, 45):
    cut = stepped.Stepped(_Interrupted(stop), steps)
    with pytest.raises(KeyboardInterrupt):
      cut.rows('train', _request(tmp_path / 'cut'))
  again = stepped.Stepped(_Interrupted(), steps)
  found = again.rows('train', _request(tmp_path / 'cut'))
  assert found.meta == want.meta
  assert found.contents == want.contents
  assert [r.documents for r in want.meta.removed] == [25, 10]


def test_a_document_that_is_read_in_pieces_is_examined_whole(tmp_path):
  (tmp_path / 'long.txt').write_text('many words ' * 50)
  text = long_text.of_file(tmp_path / 'long.txt')
  steps = (Length(min_characters=550), Quality(min_words=100))
  assert base.examine(steps, text) == base.Examined(550, ('', ''))
  # No step behind a filter that removes the document looks at it.
  short = (Length(min_characters=551), steps[1])
  assert base.examine(short, text) == base.Examined(550, ('min_characters',))
  assert list(base.Pass({'length': steps[0]}).kept([text])) == [text]


def test_a_text_of_seqio_is_decoded_for_its_steps():
  text = tasks.TASKS['minipile_scripture']
  some = list(text.decoded('validation'))
  assert some == list(text.texts('validation'))


def test_a_document_that_is_not_text_is_named():
  class Source(tasks.SeqioText):
    name = 'broken'

    def to_seqio(self, vocab):
      seqio, tf = seqio_bridge.load('broken')
      rows = [b'good', b'bad \xff']
      source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: (
          tf.data.Dataset.from_tensor_slices(rows)
        ),
        splits=self.splits,
      )
      return seqio_bridge.task(
        'broken', source, vocab, lambda ds: ds.map(seqio_bridge.as_targets)
      )

  texts = Source().decoded('train')
  assert next(texts) == 'good'
  with pytest.raises(
    errors.InputError, match='document 2 of the split .train. of broken is not'
  ):
    next(texts)


def test_the_baselines_and_a_vocabulary_see_the_kept_documents(folder):
  steps = tuple(STEPPED.values())
  data = _config(folder, steps=steps)
  assert list(build.texts(data, lambda _: None)) == KEPT


@pytest.mark.parametrize('name', STEPS)
def test_values_of_a_step_cross_processes(name):
  step = pickle.loads(pickle.dumps(STEPS[name]()))
  assert step == STEPS[name]()
  value = pickle.loads(pickle.dumps(step.examine('some words of a text')))
  assert isinstance(step.judge()(value), str)
