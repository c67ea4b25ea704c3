"""Tokenizers of all families: ids, starts and ends as transformers has them.

The folders are made when the tests run (tests/helpers/spoken.py). What
transformers makes of them is in tests/golden/tokenizers.json, and asked again
by `make test-hf`:

  MOEJAX_HF_PYTHON=... UPDATE_GOLDEN=1 python -m pytest -m hf \
    tests/convert/test_tokenizers.py
"""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest
import sentencepiece
from helpers import hf, spoken

from moejax.convert import (
  chat,
  companions,
  configs,
  folder,
  load,
  own_tokenizer,
  tokenizer,
)
from moejax.core import errors
from moejax.data import vocab

FOLDER = pathlib.Path(__file__).parents[1] / 'golden'
GOLDEN = FOLDER / 'tokenizers.json'
PYTHON = os.environ.get('MOEJAX_HF_PYTHON', sys.executable)
SIZE = 512
# Special tokens that a text begins with, and the one that ends it.
MARKS = {
  'deepseek': (['<｜begin▁of▁sentence｜>'], '<｜end▁of▁sentence｜>'),
  'done_and_not_said': (['<bos>'], '<|endoftext|>'),
  'glm': (['[gMASK]', '<sop>'], '<|endoftext|>'),
  'gpt_2': ([], '<|endoftext|>'),
  'gpt_oss': ([], '<|return|>'),
  'llama': (['<s>'], '</s>'),
  'llama_3': (['<|begin_of_text|>'], '<|eot_id|>'),
  'olmoe': ([], '<|endoftext|>'),
  'qwen': ([], '<|im_end|>'),
  'said_and_not_done': ([], '<|endoftext|>'),
  'unigram': (['<bos>'], '<eos>'),
  'wordpiece': (['[CLS]'], '[SEP]'),
}
# Families whose post-processor puts something behind a text, which here it
# never does: nothing would be continued.
ENDED = {'wordpiece': 1}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp('tokenizers')
  for name, make in spoken.FAMILIES.items():
    make(root / name)
  return root


def said(root):
  """Of every folder what transformers says."""
  done = subprocess.run(
    [PYTHON, str(FOLDER / 'ask_tokenizers.py'), str(root)],
    input=json.dumps(spoken.TEXTS),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env={**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def compare(root, name, theirs):
  """Ids of prompts, with what begins them, and the end of texts."""
  ours = tokenizer.vocab(root / name, SIZE)
  for text, whole, plain in zip(
    spoken.TEXTS, theirs['ids'], theirs['plain'], strict=True
  ):
    ids = ours.encode_prompt(text)
    assert ids == plain, (name, text)
    assert [*ours.start, *ids] == whole[: len(whole) - ENDED.get(name, 0)]
  assert ours.eos_id == theirs['eos']
  if 'chat' in theirs:
    message = {'role': 'user', 'content': ' the cat? '}
    assert chat.render(_place(root / name), [message]) == theirs['chat']


def _place(path):
  return companions.epath.Path(path)


@pytest.mark.parametrize('name', spoken.FAMILIES)
def test_ids_are_those_of_transformers(name, made):
  compare(made, name, json.loads(GOLDEN.read_text())[name])


@pytest.mark.hf
@pytest.mark.slow
def test_ids_are_those_of_transformers_now(made, tmp_path):
  if 'MOEJAX_HF_PYTHON' not in os.environ:
    probe = [PYTHON, '-c', 'import transformers, torch']
    if subprocess.run(probe, capture_output=True, check=False).returncode:
      pytest.skip(f'{PYTHON} has no transformers')
  theirs = said(made)
  if 'UPDATE_GOLDEN' in os.environ:
    text = json.dumps(theirs, ensure_ascii=False).replace('}, ', '},\n')
    GOLDEN.write_text(text + '\n')
  for name in spoken.FAMILIES:
    compare(made, name, theirs[name])
  # Of a SentencePiece model alone, but for a space that begins a text: there
  # transformers drops one that the model itself puts before.
  for begins in (True, False):
    place = tmp_path / f'begins_{begins}'
    spoken.sentencepiece_only(place, add_bos_token=begins)
  for name, found in said(tmp_path).items():
    ours = tokenizer.vocab(tmp_path / name, SIZE)
    for text, whole in zip(spoken.TEXTS, found['ids'], strict=True):
      if not text.startswith(' '):
        assert [*ours.start, *ours.encode_prompt(text)] == whole, (name, text)


@pytest.mark.hf
@pytest.mark.slow
def test_ids_of_special_tokens_are_never_those_of_a_class(tmp_path):
  """Of models that were trained here, in every family."""
  if 'MOEJAX_HF_PYTHON' not in os.environ:
    pytest.skip('MOEJAX_HF_PYTHON names no Python with transformers')
  beside = companions.of_vocab(vocab.Bytes())
  for name in hf.FAMILIES:
    plan = load.plan(folder.open_folder(str(hf.GOLDEN / name)))
    if not plan.family.in_transformers:
      continue
    (tmp_path / name).mkdir()
    config = {**configs.write(plan.family, plan.config), **beside.ids}
    (tmp_path / name / 'config.json').write_text(json.dumps(config))
    text = json.dumps(beside.generation)
    (tmp_path / name / 'generation_config.json').write_text(text)
  theirs = said(tmp_path)
  assert len(theirs) >= 10
  for name, found in theirs.items():
    assert found['special'] == [[0, 1, None]] * 2, name


@pytest.fixture(scope='module')
def own(made, tmp_path_factory):
  """Vocabularies of runs that began with no folder, and what is written."""
  root = tmp_path_factory.mktemp('own')
  spoken.sentencepiece_only(root / 'theirs', add_bos_token=False)
  vocabs = {
    'bytes': vocab.Bytes(),
    'shipped': vocab.SentencePiece(),
    'sentencepiece': vocab.SentencePiece(
      str(root / 'theirs' / 'tokenizer.model'), 0, start_token='<s>'
    ),
    'json': vocab.HfTokenizer(str(made / 'gpt_2' / 'tokenizer.json'), shift=0),
  }
  for name, one in vocabs.items():
    (root / 'out' / name).mkdir(parents=True)
    for file, data in companions.of_vocab(one).files.items():
      (root / 'out' / name / file).write_bytes(companions.content(data))
    (root / 'out' / name / 'config.json').write_text('{"model_type": "llama"}')
  return vocabs, root / 'out'


def test_a_vocabulary_without_a_folder_goes_out_and_comes_back(own):
  vocabs, root = own
  for name, ours in vocabs.items():
    back = tokenizer.vocab(root / name, ours.size)
    assert back.size == ours.size, name
    assert (back.start, back.eos_id) == (ours.start, ours.eos_id), name
    assert back.first_id == ours.first_id
    for text in spoken.TEXTS:
      assert back.encode(text) == ours.encode(text), (name, text)
      assert back.decode(back.encode(text)) == ours.decode(ours.encode(text))


def test_ids_that_moejax_has_shifted_have_no_files(own, made):
  """Those of transformers would be others."""
  path = own[0]['sentencepiece'].path
  for ours in (
    vocab.SentencePiece(path),
    vocab.HfTokenizer(str(made / 'gpt_2' / 'tokenizer.json')),
  ):
    assert ours.encode('cat')[0] > 0
    assert companions.of_vocab(ours).files == {}
    assert 'plus one' in own_tokenizer.lacking(ours)
  assert companions.of_vocab(vocab.Ids(size=9)).files == {}
  assert 'came without' in own_tokenizer.lacking(vocab.Ids(size=9))


@pytest.mark.hf
@pytest.mark.slow
def test_transformers_reads_a_vocabulary_that_has_gone_out(own):
  if 'MOEJAX_HF_PYTHON' not in os.environ:
    pytest.skip('MOEJAX_HF_PYTHON names no Python with transformers')
  vocabs, root = own
  theirs = said(root)
  for name, one in vocabs.items():
    # Bytes know no special tokens in a text; the file that is written does.
    ours = tokenizer.vocab(root / name, one.size)
    for text, whole in zip(spoken.TEXTS, theirs[name]['ids'], strict=True):
      # A model that puts a space before texts is asked for these: transformers
      # drops a second one, and puts one behind special tokens (docs/models.md).
      if name != 'sentencepiece' or not (text.startswith(' ') or '<s>' in text):
        assert [*ours.start, *ours.encode_prompt(text)] == whole, (name, text)
    assert theirs[name]['eos'] == ours.eos_id


@pytest.mark.parametrize('name', spoken.FAMILIES)
def test_the_post_processor_decides_what_a_text_begins_with(name, made):
  """Neither add_bos_token nor bos_token_id of config.json do."""
  ours = tokenizer.vocab(made / name, SIZE)
  begin, end = MARKS[name]
  id_of = functools.partial(_id_of, made / name)
  assert ours.start == tuple(map(id_of, begin))
  assert ours.eos_id == id_of(end)
  # In training a segment begins with it, or with the end of the one before.
  assert ours.first_id == id_of([end, *begin][-1])
  assert ours.least_id == 0


def _id_of(path, token):
  text = (path / 'tokenizer.json').read_text()
  return spoken.tokenizers.Tokenizer.from_str(text).token_to_id(token)


# A unigram model has its special tokens among the words that it makes texts of.
@pytest.mark.parametrize('name', sorted(spoken.FAMILIES.keys() - {'unigram'}))
def test_special_tokens_are_plain_in_texts_and_themselves_in_prompts(
  name, made
):
  ours = tokenizer.vocab(made / name, SIZE)
  begin, end = MARKS[name]
  special = {*map(functools.partial(_id_of, made / name), [*begin, end])}
  text = f'cat{end}{"".join(begin)}cat'
  assert not special & {*ours.encode(text)}
  assert special <= {*ours.encode_prompt(text)}
  # And again, in the other order: neither leaves a trace.
  assert not special & {*ours.encode(text)}


def test_an_end_that_a_file_has_among_its_words_alone(made, tmp_path):
  """It is a special token in prompts, as in transformers; texts stay as is."""
  tree = json.loads((made / 'gpt_2' / 'tokenizer.json').read_text())
  (end,) = tree.pop('added_tokens')
  tree['added_tokens'] = []
  tree['model']['vocab'][end['content']] = end['id']
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(tree))
  ours = vocab.HfTokenizer(str(path), end['content'], shift=0)
  plain = spoken.tokenizers.Tokenizer.from_file(str(path))
  text = f'the{end["content"]} cat'
  assert ours.encode(text) == plain.encode(text).ids
  assert ours.encode_prompt(text) == [
    *ours.encode('the'),
    end['id'],
    *ours.encode(' cat'),
  ]


def test_a_folder_s_own_sentencepiece_model_is_used_as_it_is(tmp_path):
  for begins, start in ((True, (1,)), (False, ()), (None, ())):
    place = tmp_path / str(begins)
    more = {} if begins is None else {'add_bos_token': begins}
    spoken.sentencepiece_only(place, **more)
    ours = tokenizer.vocab(place, SIZE)
    plain = sentencepiece.SentencePieceProcessor(
      model_file=str(place / 'tokenizer.model')
    )
    for text in spoken.TEXTS:
      assert ours.encode(text) == plain.encode(text)
      assert ours.encode_batch([text]) == [plain.encode(text)]
      assert ours.decode(plain.encode(text)) == plain.decode(plain.encode(text))
    assert (ours.start, ours.eos_id, ours.least_id) == (start, 2, 0)
    assert ours.first_id == (1 if start else 2)
    assert ours.size == plain.get_piece_size()
    # No space is put between a special token and what follows.
    inner = ours.encode_prompt('a cat</s>the cat')
    at = inner.index(2)
    assert inner[:at] == plain.encode('a cat')
    assert ours.decode(inner[at + 1 :]) == 'the cat'
    assert plain.id_to_piece(inner[at + 1])[0] == 't'


def test_a_sentencepiece_model_is_shifted_or_not_as_one_says(tmp_path):
  spoken.sentencepiece_only(tmp_path)
  path = str(tmp_path / 'tokenizer.model')
  usual, shifted, plain = (
    vocab.SentencePiece(path, shift=shift) for shift in (None, 1, 0)
  )
  ids = plain.encode('the cat')
  assert usual.encode('the cat') == shifted.encode('the cat')
  assert usual.encode('the cat') == [i + 1 for i in ids]
  assert (usual.start, usual.first_id, usual.eos_id) == ((0,), 0, 3)
  assert (plain.start, plain.first_id, plain.eos_id) == ((), 2, 2)
  # Caches of rows that were made before there was a setting are still right.
  assert usual.fingerprint().count(':') == 1
  assert len({usual.fingerprint(), plain.fingerprint()}) == 2
  for wrong, message in (
    ({'shift': 2}, 'shift=2 must be from 0 to 1'),
    ({'shift': 0, 'start_token': '<go>'}, "start_token='<go>' is no piece"),
  ):
    with pytest.raises(errors.InputError, match=message):
      _ = vocab.SentencePiece(path, **wrong).start


def test_without_a_tokenizer_there_are_ids_alone(tmp_path):
  """Never the vocabulary that moejax brings."""
  config = {'vocab_size': 99, 'bos_token_id': 5, 'eos_token_id': [7, 8]}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  ours = tokenizer.vocab(tmp_path, 99)
  assert ours == vocab.Ids(size=99, eos_id=7, start_id=5)
  assert (ours.start, ours.first_id) == ((5,), 5)
  assert ours.decode([3, 4]) == ' 3 4'
  for encode in (ours.encode, ours.encode_prompt):
    with pytest.raises(errors.InputError, match='came without a tokenizer'):
      encode('the')
  assert tokenizer.lacking(tmp_path) == 'The folder has no tokenizer'
  (tmp_path / 'vocab.json').write_text('{}')
  assert 'has vocab.json, but no tokenizer.json' in tokenizer.lacking(tmp_path)


def test_a_start_token_that_is_not_there_is_one_line(made):
  path = str(made / 'gpt_2' / 'tokenizer.json')
  ours = vocab.HfTokenizer(path, shift=0, start_token='[gMASK]<sop>')
  with pytest.raises(errors.InputError, match=r"start_token='\[gMASK\]<sop>'"):
    _ = ours.start


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, 'the model has no chat template'),
    ({'chat_template.jinja': '{{ messages'}, 'does not take this chat'),
    ({'chat_template.jinja': '{{ raise_exception("no") }}'}, 'this chat: no'),
    # What would reach Python's insides is refused by the sandbox.
    (
      {'chat_template.jinja': '{{ "".__class__.__mro__[1].__subclasses__() }}'},
      'does not take this chat: .*unsafe',
    ),
    ({'chat_template.jinja': '{{ messages.append(1) }}'}, 'unsafe'),
    ({'chat_template.jinja': '{{ 1 // 0 }}'}, 'this chat: .*zero'),
    ({'chat_template.jinja': 'A: '}, 'this chat: it leaves out what users'),
    ({'chat_template.jinja': '{% include "/etc/passwd" %}'}, 'this chat'),
  ],
)
def test_templates_that_cannot_be_used_are_one_line(files, message, tmp_path):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(errors.InputError, match=message) as e:
    chat.render(_place(tmp_path), [{'role': 'user', 'content': 'a'}])
  assert '\n' not in str(e.value)


def test_which_template_a_folder_has(tmp_path):
  place, settings = _place(tmp_path), tmp_path / 'tokenizer_config.json'
  several = [
    {'name': 'tools', 'template': 'T'},
    {'name': 'default', 'template': 'D'},
  ]
  assert chat.template(place) is None
  (tmp_path / 'chat_template.json').write_text('{"chat_template": "J"}')
  assert chat.template(place) == 'J'
  settings.write_text(json.dumps({'chat_template': several}))
  assert chat.template(place) == 'D'
  settings.write_text(json.dumps({'chat_template': 'one'}))
  assert chat.template(place) == 'one'
  (tmp_path / 'chat_template.jinja').write_text('file')
  assert chat.template(place) == 'file'


def test_a_template_has_what_those_of_transformers_count_on(tmp_path):
  (tmp_path / 'chat_template.jinja').write_text(
    '{%- for m in messages %}\n'
    '  {%- if loop.index > 1 %}{% break %}{% endif %}\n'
    '{{ m | tojson }} {{ {"a": "<é>"} | tojson(indent=None) }}\n'
    '  {%- generation %}x{% endgeneration %}\n'
    '{%- endfor %} {{ strftime_now("%Y") | length }} {{ eos_token }}'
    '{{ bos_token }}'
  )
  settings = {'eos_token': {'content': '</s>'}, 'bos_token': None}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
  both = [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': 'b'}]
  assert chat.render(_place(tmp_path), both) == (
    '{"role": "user", "content": "a"} {"a": "<é>"}x 4 </s>'
  )
