"""The default tests that import TensorFlow: tasks and vocabularies in SeqIO."""

import configparser
import dataclasses
import gzip
import json
import pathlib
import sys

import numpy as np
import pytest
import tokenizers

from moejax.core import errors
from moejax.data import (
  build,
  cache_writer,
  config,
  estimate,
  features,
  files,
  loader,
  seqio_bridge,
  sources,
  tasks,
  vocab,
)

TEXTS = ['', ' two  spaces\n', 'é漢字🙂 \x00', 'def f():\n    return 1']


@pytest.fixture(scope='module')
def seqio():
  """Imported by the first test that needs it: collecting tests takes less."""
  return seqio_bridge.load('the tests')[0]


@pytest.fixture(scope='module')
def tf():
  return seqio_bridge.load('the tests')[1]


@pytest.fixture(scope='module')
def hf_vocab(tmp_path_factory):
  """A tokenizer whose id 0 is a real token."""
  model = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({'zero': 0, 'one': 1, '?': 2}, unk_token='?')
  )
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  model.add_special_tokens(['<eos>'])
  path = tmp_path_factory.mktemp('hf') / 'tokenizer.json'
  model.save(str(path))
  return vocab.HfTokenizer(str(path), '<eos>')


def _examples(dataset):
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize('ours', [vocab.Bytes(), vocab.SentencePiece()])
def test_vocabularies_agree_with_seqio(ours, tf):
  theirs = ours.to_seqio()
  assert theirs.vocab_size == ours.size
  assert theirs.eos_id == ours.eos_id
  for text in TEXTS:
    ids = ours.encode(text)
    assert list(theirs.encode(text)) == ids
    assert theirs.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert theirs.decode(ids) == ours.decode(ids) == text


def test_byte_decoding_agrees_on_any_ids(seqio):
  rng = np.random.default_rng(0)
  for _ in range(200):
    ids = rng.integers(0, 270, 20)
    ids = ids[ids != 1].tolist()  # SeqIO stops at EOS
    assert vocab.Bytes().decode(ids) == seqio.ByteVocabulary().decode(ids)


def test_a_hugging_face_tokenizer_in_the_graph(hf_vocab, tf):
  theirs = hf_vocab.to_seqio()
  assert (theirs.vocab_size, theirs.eos_id, theirs.unk_id) == (5, 4, None)
  dataset = tf.data.Dataset.from_tensor_slices(['zero one', 'one zero zero'])
  found = _examples(dataset.map(theirs.encode_tf))
  assert [ids.tolist() for ids in found] == [[1, 2], [2, 1, 1]]
  assert theirs.decode_tf(tf.constant([2, 1])).numpy() == b'one zero'
  assert theirs == hf_vocab.to_seqio()
  assert theirs != vocab.Bytes().to_seqio()


def test_an_iterator_over_it_can_be_checkpointed(hf_vocab, tmp_path, tf):
  """A stateful Python function would refuse."""
  theirs = hf_vocab.to_seqio()
  dataset = tf.data.Dataset.from_tensor_slices(['zero', 'one', 'one one'])
  iterator = iter(dataset.map(theirs.encode_tf))
  next(iterator)
  path = tf.train.Checkpoint(it=iterator).write(str(tmp_path / 'it'))
  again = iter(dataset.map(theirs.encode_tf))
  tf.train.Checkpoint(it=again).read(path)
  assert next(again).numpy().tolist() == [2]


@pytest.mark.parametrize('ours', [vocab.Bytes(), vocab.SentencePiece()])
def test_a_task_gives_the_tokens_of_our_own_encoding(ours):
  task = tasks.TASKS['minipile_dictionary']
  dataset = task.to_seqio(ours).get_dataset(
    sequence_length=None,
    split='validation',
    shuffle=False,
    trim_output_features=False,
  )
  texts = list(task.texts('validation'))
  found = list(task.documents('validation', ours, skip=0, note=print))
  examples = _examples(dataset)
  assert len(texts) == len(found) == len(examples) == 9
  for text, document, example in zip(texts, found, examples, strict=True):
    want = [*ours.encode(text), ours.eos_id]
    assert document.ids_T.tolist() == example['targets'].tolist() == want
    assert document.num_bytes == example['num_bytes'] == len(text.encode())


def test_id_0_can_be_a_word(hf_vocab, tmp_path):
  """Of a model that has its own tokenizer: from text to what it reads."""
  ours = dataclasses.replace(hf_vocab, shift=0)
  text = json.dumps({'text': 'zero one zero zero'})
  (tmp_path / 'a.jsonl').write_text('\n'.join([text] * 300))
  own = files.Files(str(tmp_path / 'a.jsonl'))
  task = own.to_seqio(ours)
  found = list(seqio_bridge.documents(task, 'train', 0))
  ids, eos = [0, 1, 0, 0, 3], 3
  assert len(found) > 200
  assert all(document.ids_T.tolist() == ids for document in found)
  made = own.rows('train', cache_writer.Request(ours, 10, tmp_path))
  assert made.num_tokens == 5 * len(found)
  batch = loader.eval_batch(made, 0, 4)
  np.testing.assert_array_equal(batch.target_BL, [ids * 2] * 4)
  np.testing.assert_array_equal(batch.token_BL, [[eos, *ids[:-1]] * 2] * 4)
  assert batch.weight_BL.all()


def test_skipping_starts_at_that_document():
  task, ours = tasks.TASKS['minipile_code'], vocab.Bytes()
  whole, rest = (
    list(task.documents('validation', ours, skip=skip, note=print))
    for skip in (0, 5)
  )
  assert [d.num_bytes for d in rest] == [d.num_bytes for d in whole[5:]]
  assert not list(task.documents('validation', ours, skip=99, note=print))


def test_a_cache_of_a_task_loses_no_token(tmp_path):
  """SeqIO's trimming would keep 256 tokens of each of the 4 speeches."""
  task, ours = tasks.TASKS['minipile_speeches'], vocab.SentencePiece()
  request = cache_writer.Request(ours, 256, tmp_path)
  made = task.rows('validation', request)
  ids = [[*ours.encode(t), 1] for t in task.texts('validation')]
  ((want, _),) = features.pack([np.array(i) for i in ids], 256)
  found = made.rows(np.arange(made.num_rows))
  np.testing.assert_array_equal(found.target_NL, want.target_NL)
  np.testing.assert_array_equal(found.segment_NL, want.segment_NL)
  assert made.num_tokens == sum(map(len, ids)) > 40_000


def test_seqio_itself_splits_long_documents(seqio):
  task = tasks.TASKS['minipile_code'].to_seqio(vocab.Bytes())
  dataset = task.get_dataset({'targets': 1000}, 'validation', shuffle=False)
  examples = _examples(dataset)
  assert max(len(e['targets']) for e in examples) == 1000
  assert sum(len(e['targets']) for e in examples) == 176717 + 8
  assert sum(e['num_bytes'] for e in examples) == 176717
  # Nothing is left in SeqIO's global table.
  assert not seqio.TaskRegistry.names()


def test_splitting_by_hand(tf):
  row = {'targets': [[5, 8, 1]], 'num_bytes': [4]}
  dataset = tf.data.Dataset.from_tensor_slices(row)
  found = _examples(seqio_bridge.split_long(dataset, {'targets': 2}))
  assert [e['targets'].tolist() for e in found] == [[5, 8], [1]]
  assert [e['num_bytes'] for e in found] == [4, 0]


C4 = {  # as TensorFlow Datasets gives it, c4/en:3.1.0
  'content-length': [b'12', b'34', b'5'],
  'content-type': [b'text/plain', b'text/plain', b'text/plain'],
  'text': [b'Beginners BBQ Class\nMissoula.', 'é'.encode(), b''],
  'timestamp': [b'2019-04-25T12:57:54Z', b'2019-04-21T10:07:13Z', b''],
  'url': [b'https://a.example/bbq', b'https://b.example/', b'x'],
}
FINEWEB_EDU = {  # as the hub gives it
  'text': [b'Plants make sugar.', 'naïve'.encode(), b'Third\n\nrow.'],
  'id': [b'<urn:uuid:1>', b'<urn:uuid:2>', b'<urn:uuid:3>'],
  'dump': [b'CC-MAIN-2013-20'] * 3,
  'url': [b'http://a.example', b'http://b.example', b'http://c.example'],
  'language_score': [0.9, 0.8, 0.7],
  'token_count': [4, 3, 5],
  'score': [3.1, 2.9, 4.0],
  'int_score': [3, 3, 4],
}


@pytest.mark.parametrize(
  ('name', 'rows'), [('c4', C4), ('fineweb_edu', FINEWEB_EDU)]
)
def test_rows_in_the_sources_format(name, rows, seqio, tf):
  """The whole Task but its source, which needs the network."""
  ours = vocab.Bytes()
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
      rows
    ),
    splits=['train'],
  )
  task = tasks.TASKS[name].to_seqio(ours).replace(source=source)
  found = list(seqio_bridge.documents(task, 'train', 0))
  assert len(found) == 3
  for document, text in zip(found, rows['text'], strict=True):
    assert document.ids_T.tolist() == [*ours.encode(text.decode()), 1]
    assert document.num_bytes == len(text)


class Stream:
  """What the hub's streams do."""

  def __init__(self, rows):
    self._rows = rows

  def __iter__(self):
    return iter(self._rows)

  def select_columns(self, names):
    return Stream([{n: row[n] for n in names} for row in self._rows])

  def take(self, count):
    return Stream(self._rows[:count])

  def skip(self, count):
    return Stream(self._rows[count:])


def test_a_hub_text_holds_its_first_rows_out(monkeypatch):
  rows = [{'text': f'row {i}', 'id': i} for i in range(5)]
  monkeypatch.setattr(tasks.HuggingFace, '_stream', lambda *_: Stream(rows))
  task = tasks.HuggingFace('hub', 'some/path', 'part', held_out=2)
  ours = vocab.Bytes()
  found = {
    split: [
      ours.decode(d.ids_T)
      for d in task.documents(split, ours, skip=0, note=print)
    ]
    for split in task.splits
  }
  assert found['validation'] == ['row 0', 'row 1']
  assert found['train'] == ['row 2', 'row 3', 'row 4']


OF_TFDS = {
  name: task
  for name, task in tasks.TASKS.items()
  if isinstance(task, tasks.Tfds)
}
OF_THE_HUB = {
  name: task
  for name, task in tasks.TASKS.items()
  if isinstance(task, tasks.HuggingFace)
}


@pytest.mark.parametrize('name', OF_TFDS)
def test_tensorflow_datasets_still_prepares_the_version(name, tmp_path):
  """Its own builder says which versions and features there are, without data.

  It raises for a version that it no longer has.
  """
  import tensorflow_datasets as tfds

  task = OF_TFDS[name]
  info = tfds.builder(task.tfds_name, data_dir=str(tmp_path)).info
  assert f'{task.tfds_name.replace(":", "/")}' == info.full_name
  assert isinstance(info.features[task.field], tfds.features.Text)


WEB = {'url': 'http://a.example', 'timestamp': '2019-04-25T12:57:54Z'}
CODE = {
  'hexsha': 'a1',
  'size': 9,
  'ext': 'py',
  'lang': 'Python',
  'max_stars_repo_path': 'a/b.py',
  'max_stars_repo_name': 'a/b',
  'max_stars_count': 3,
  'avg_line_length': 9.0,
  'max_line_length': 9,
  'alphanum_fraction': 0.5,
}
# The columns of each repository beside its text, as published.
COLUMNS = {
  'c4_hub': WEB,
  'dclm': {
    'bff_contained_ngram_count_before_dedupe': 3,
    'language_id_whole_page_fasttext': {'en': 0.97},
    'metadata': {'Content-Type': 'application/http; msgtype=response'},
    'previous_word_count': 9,
    'url': 'http://a.example',
    'warcinfo': 'robots: classic',
    'fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200_train_prob': 0.1,
  },
  'fineweb_edu': {n: v[0] for n, v in FINEWEB_EDU.items() if n != 'text'},
  'slimpajama': {'meta': {'redpajama_set_name': 'RedPajamaC4'}},
  'stack': CODE,
  'wikipedia': {'id': '12', 'url': 'https://a.example', 'title': 'Title'},
}


def _repository(folder, task, columns):
  """A local folder that stands for a repository of the hub."""
  readme = f'---\nconfigs:\n- config_name: {task.config or "default"}\n'
  readme += '  data_files:\n'
  splits = {task.split: 'abcd', task.validation_split: 'xy'}
  for split, words in splits.items():
    if not split:
      continue
    rows = [{**columns, task.field: word} for word in words]
    lines = [json.dumps(row, default=bytes.decode) + '\n' for row in rows]
    path = folder / split / '0.json.gz'
    path.parent.mkdir()
    path.write_bytes(gzip.compress(''.join(lines).encode()))
    readme += f'  - split: {split}\n    path: {split}/*\n'
  (folder / 'README.md').write_text(readme + '---\n')
  return dataclasses.replace(task, path=str(folder), held_out=1)


@pytest.mark.parametrize('name', OF_THE_HUB)
def test_the_library_of_the_hub_streams_a_repository_of_this_form(
  name, tmp_path, monkeypatch
):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  local = _repository(tmp_path, OF_THE_HUB[name], COLUMNS[name])
  found = {split: ''.join(local.stream(split)) for split in local.splits}
  own = {'train': 'abcd', 'validation': 'xy'}
  rest = {'train': 'bcd', 'validation': 'a'}
  assert found == (own if local.validation_split else rest)
  ours = vocab.Bytes()
  through_seqio = local.documents('train', ours, skip=0, note=print)
  decoded = [ours.decode(document.ids_T) for document in through_seqio]
  assert ''.join(decoded) == found['train']


def test_a_row_of_the_hub_without_text_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  stack = dataclasses.replace(OF_THE_HUB['stack'], field='size')
  local = _repository(tmp_path, stack, CODE)
  (tmp_path / 'train' / '0.json.gz').write_bytes(
    gzip.compress(json.dumps({'size': 7}).encode())
  )
  local = dataclasses.replace(local, held_out=0)
  with pytest.raises(errors.InputError, match="'size' holds int, not text"):
    list(local.stream('train'))


def test_a_source_of_the_hub(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  local = _repository(tmp_path, OF_THE_HUB['stack'], CODE)
  code = sources.Source(
    'code', huggingface=local.path, text_field='content', validation_documents=3
  )
  code.check()
  own = config.DataConfig(
    sources=(code,),
    vocab=vocab.Bytes(),
    sequence_length=4,
    cache_dir=str(tmp_path / 'cache'),
  )
  made = build.build(own, 1, 0)
  assert made.validation['code'].num_tokens == 6  # each letter and EOS
  assert made.counts.tokens(3) == {'code': 6}  # 'd' and EOS, three times


def test_what_a_text_needs_is_an_extra():
  setup = configparser.ConfigParser()
  setup.read(pathlib.Path(__file__).parents[2] / 'setup.cfg')
  assert setup['options.extras_require']['huggingface'].startswith('datasets')


def test_texts_that_are_not_here_are_one_line(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setitem(sys.modules, 'datasets', None)  # as if not installed
  for name, word in (
    ('c4', 'TFDS_DATA_DIR'),
    ('fineweb_edu', r"pip install 'moejax\[huggingface\]'"),
  ):
    with pytest.raises(errors.InputError, match=word) as caught:
      list(
        tasks.TASKS[name].documents('train', vocab.Bytes(), skip=0, note=print)
      )
    assert name.replace('_', '-') in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_c4_as_tensorflow_datasets_keeps_it_on_disk(monkeypatch, tmp_path, tf):
  import tensorflow_datasets as tfds

  folder = tmp_path / 'c4' / 'en' / '3.1.0'
  folder.mkdir(parents=True)
  format_ = tfds.features.FeaturesDict({n: tfds.features.Text() for n in C4})
  splits = []
  for split in ('train', 'validation'):
    path = folder / f'c4-{split}.tfrecord-00000-of-00001'
    with tf.io.TFRecordWriter(str(path)) as out:
      for i in range(3):
        row = {name: values[i] for name, values in C4.items()}
        out.write(format_.serialize_example(format_.encode_example(row)))
    template = tfds.core.ShardedFileTemplate(
      dataset_name='c4',
      data_dir=folder,
      split=split,
      filetype_suffix='tfrecord',
    )
    splits.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[3],
        num_bytes=9,
        filename_template=template,
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=str(folder),
    features=format_,
    split_infos=splits,
    filename_template=None,
  )
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  ours = vocab.Bytes()
  made = tasks.TASKS['c4'].rows(
    'train', cache_writer.Request(ours, 8, tmp_path / 'cache')
  )
  target_NL, _ = made.rows(np.arange(made.num_rows))
  want = b''.join(C4['text']).decode()
  assert ours.decode(target_NL.ravel()) == want
  assert made.meta.num_documents == 2  # the third is empty
  sample = tasks.TASKS['c4'].sample('train')
  assert sample.texts == [text.decode() for text in C4['text']]
  assert sample.num_documents == 3
  own = sources.Source('web', tfds='c4/en:3.1.0', validation_documents=1)
  monkeypatch.setattr(estimate, '_HEAD', 1)  # only the first document is read
  for split, count in (('validation', 1), ('train', 2)):
    assert own.text().sample(split).num_documents == count
    assert len(own.text().sample(split).texts) == 1
  rest = [text.decode() for text in C4['text']]
  assert list(own.text().stream('validation')) == rest[:1]
  assert list(own.text().stream('train')) == rest[1:]


def test_own_files_as_a_seqio_task(tmp_path):
  lines = [json.dumps({'text': f'documént {i}'}) for i in range(300)]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  own, ours = files.Files(str(tmp_path)), vocab.SentencePiece()
  for split in own.splits:
    want = list(own.documents(split, ours, skip=0, note=print))
    dataset = own.to_seqio(ours).get_dataset(
      None, split, shuffle=False, trim_output_features=False
    )
    found = _examples(dataset)
    assert len(found) == len(want) > 5
    for example, document in zip(found, want, strict=True):
      assert example['targets'].tolist() == document.ids_T.tolist()
      assert example['num_bytes'] == document.num_bytes
