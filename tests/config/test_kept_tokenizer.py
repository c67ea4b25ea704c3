"""What a workdir keeps of tokenizers, and when it is used."""

import dataclasses
import json
import os
import shutil

import pytest
from etils import epath
from helpers import spoken

from moejax import config as configs
from moejax.config import Run, kept_tokenizer
from moejax.convert import companions, tokenizer
from moejax.core import config_tree, errors, files, manifest
from moejax.data import vocab
from moejax.data.chat import Chat, templates
from moejax.data.config import DataConfig
from moejax.run import restore

SIZE = 512


@pytest.fixture
def own(tmp_path):
  """A tokenizer of one's own, and a workdir of a run with it."""
  spoken.sentencepiece_only(tmp_path / 'made')
  path = tmp_path / 'mine.model'
  (tmp_path / 'made' / 'tokenizer.model').rename(path)
  mine = vocab.SentencePiece(str(path))
  workdir = tmp_path / 'work'
  kept_tokenizer.keep(mine, workdir, '')
  return path, mine, workdir


def begin(workdir):
  (workdir / kept_tokenizer.CHECKPOINTS / '00000010').mkdir(parents=True)


def same(workdir, made):
  """Whether the workdir has the bytes of all files of a folder."""
  found = workdir / companions.NAME
  names = sorted(p.name for p in found.iterdir() if p.name != manifest.MANIFEST)
  assert names == sorted(p.name for p in made.iterdir())
  return all(
    (found / name).read_bytes() == (made / name).read_bytes() for name in names
  )


def test_a_tokenizer_of_one_s_own_moves_with_the_workdir(own, tmp_path):
  path, mine, workdir = own
  ids, print_ = mine.encode('the cat'), mine.fingerprint()
  run = Run(data=DataConfig(vocab=mine))
  files.atomic_write_json(workdir / 'config.json', config_tree.to_dict(run))
  path.unlink()
  moved = tmp_path / 'elsewhere' / 'run'
  shutil.move(workdir, moved)
  found = restore.run_of(str(moved)).data.vocab
  assert found.path == str(moved / kept_tokenizer.OWN / 'mine.model')
  assert (found.encode('the cat'), found.fingerprint()) == (ids, print_)


def test_a_run_goes_on_without_the_file_and_not_with_another(own):
  path, mine, workdir = own
  # The same bytes under another name are the same tokenizer.
  other = path.with_name('other.model')
  shutil.copyfile(path, other)
  begin(workdir)
  renamed = vocab.SentencePiece(str(other))
  assert kept_tokenizer.adopted(renamed, workdir) == renamed
  a, b = (Run(data=DataConfig(vocab=v)) for v in (mine, renamed))
  restore.check_same(a, b, 'it')
  other.unlink()
  assert kept_tokenizer.adopted(renamed, workdir).encode('cat') == mine.encode(
    'cat'
  )
  shutil.copyfile(vocab.SHIPPED, path)
  with pytest.raises(errors.InputError, match='is another tokenizer than'):
    kept_tokenizer.adopted(vocab.SentencePiece(str(path)), workdir)


def test_before_the_first_checkpoint_the_tokenizer_may_change(own):
  path, _, workdir = own
  # A first save that was killed is no checkpoint.
  place = workdir / kept_tokenizer.CHECKPOINTS
  (place / '00000010.part').mkdir(parents=True)
  (place / 'values.json').write_text('{"10": 2.5}')
  shutil.copyfile(vocab.SHIPPED, path)
  changed = vocab.SentencePiece(str(path))
  assert kept_tokenizer.adopted(changed, workdir) == changed
  kept_tokenizer.keep(changed, workdir, '')
  assert kept_tokenizer.resolved(changed, workdir).size == 8192
  # Also where the file is gone, and the copy is all there is.
  path.unlink()
  kept_tokenizer.keep(kept_tokenizer.adopted(changed, workdir), workdir, '')
  assert kept_tokenizer.resolved(changed, workdir).size == 8192
  begin(workdir)
  # And then no more.
  kept_tokenizer.keep(vocab.Bytes(), workdir, '')
  assert kept_tokenizer.resolved(changed, workdir).size == 8192


def test_a_config_is_loaded_with_the_copy_of_a_run_that_goes_on(own, tmp_path):
  path, _, workdir = own
  file = tmp_path / 'mine.py'
  file.write_text(
    'from moejax import config\n'
    'def get_config():\n'
    '  c = config.default()\n'
    f'  c.data.vocab.path = {str(path)!r}\n'
    '  return c\n'
  )
  path.unlink()
  found = configs.load(str(file), workdir=str(workdir)).data.vocab
  assert found.path == str(workdir / kept_tokenizer.OWN / 'mine.model')
  with pytest.raises(errors.InputError, match='cannot be read: No such file'):
    configs.load(str(file), workdir=str(tmp_path / 'new'))


@pytest.mark.parametrize('name', ['qwen', 'sentencepiece_only'])
def test_all_of_a_folder_comes_along(name, tmp_path):
  """To a run, to one that begins with it, and to a moved one."""
  made, first, second = (tmp_path / n for n in ('made', 'first', 'second'))
  getattr(spoken, name)(made)
  (made / 'generation_config.json').write_text('{"do_sample": true}')
  (made / 'special_tokens_map.json').write_text('{}')
  ours = tokenizer.vocab(made, SIZE)
  kept_tokenizer.keep(ours, first, str(made))
  assert same(first, made)
  assert not (first / kept_tokenizer.OWN).exists()
  ids = ours.encode_prompt(spoken.TEXTS[0])
  third = tmp_path / 'third'
  shutil.copytree(made, tmp_path / 'copy')
  shutil.rmtree(made)
  found = kept_tokenizer.resolved(ours, first)
  kept_tokenizer.keep(found, first, str(made))  # as a run that goes on does
  assert same(first, tmp_path / 'copy')
  assert not (first / kept_tokenizer.OWN).exists()
  assert found.encode_prompt(spoken.TEXTS[0]) == ids
  kept_tokenizer.keep(found, second, str(first))
  shutil.rmtree(first)
  shutil.move(second, third)
  assert same(third, tmp_path / 'copy')
  assert (
    kept_tokenizer.folder(kept_tokenizer.resolved(ours, third), third)
    is not None
  )


def test_more_chat_templates_come_along(tmp_path):
  spoken.gpt_2(tmp_path / 'made')
  more = tmp_path / 'made' / companions.TEMPLATES
  more.mkdir()
  (more / 'tool_use.jinja').write_text('tools')
  kept_tokenizer.keep(
    tokenizer.vocab(tmp_path / 'made', SIZE), tmp_path, str(more.parent)
  )
  found = companions.of_folder(tmp_path / companions.NAME, vocab.Bytes()).files
  name = f'{companions.TEMPLATES}/tool_use.jinja'
  assert found[name].read_text() == 'tools'


def test_the_template_that_a_model_is_tuned_with_comes_along(tmp_path):
  made, workdir = tmp_path / 'made', tmp_path / 'work'
  spoken.FAMILIES['qwen'](made)
  (made / 'chat_template.jinja').write_text('its own')
  own = tokenizer.vocab(made, SIZE)
  for chat, text in (
    (Chat(), 'its own'),
    (Chat('vicuna'), templates.BUILT_IN['vicuna'].read_text()),
  ):
    kept_tokenizer.keep(own, workdir, str(made), chat=chat)
    kept = workdir / companions.NAME
    assert templates.of_folder(epath.Path(kept)) == text
    beside = companions.of_folder(epath.Path(kept), own)  # what is exported
    assert beside.files['chat_template.jinja'].read_text() == text


def test_a_tuned_model_ends_its_texts_where_turns_end(tmp_path):
  made = tmp_path / 'made'
  spoken.FAMILIES['qwen'](made)
  place = lambda name: epath.Path(tmp_path / name / companions.NAME)
  own = dataclasses.replace(
    tokenizer.vocab(made, SIZE), eos_token='<|endoftext|>'
  )
  (made / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': own.eos_id, 'top_k': 7})
  )
  (end,) = own.encode_prompt('<|im_end|>')
  for template in ('chatml', 'vicuna'):  # the latter writes the folder's EOS
    chat = Chat(template)
    kept_tokenizer.keep(own, tmp_path / template, str(made), chat=chat)
    assert companions.end_ids(place(template), own) == [own.eos_id, end]
    companions.check(place(template))
    beside = companions.of_folder(place(template), own)
    assert beside.generation['top_k'] == 7
  # Settings that end there already stay as they are.
  settings = '{"eos_token_id": [' + str(end) + ']}'
  (made / 'generation_config.json').write_text(settings)
  kept_tokenizer.keep(own, tmp_path / 'c', str(made), chat=Chat('chatml'))
  assert (place('c') / 'generation_config.json').read_text() == settings


def test_conversations_in_another_tokenizer_are_refused(tmp_path):
  for name in ('qwen', 'llama'):
    spoken.FAMILIES[name](tmp_path / name)
  other = tokenizer.vocab(tmp_path / 'llama', SIZE)
  keep = lambda **chat: kept_tokenizer.keep(
    other, tmp_path / 'work', str(tmp_path / 'qwen'), **chat
  )
  keep()
  with pytest.raises(errors.InputError, match='is another tokenizer than that'):
    keep(chat=Chat('vicuna'))


def test_a_folder_s_tokenizer_does_not_come_along_with_another(tmp_path):
  spoken.gpt_2(tmp_path / 'made')
  start, lines = str(tmp_path / 'made'), []
  ours = tokenizer.vocab(start, SIZE)
  for number, other in enumerate((
    vocab.Bytes(),
    vocab.SentencePiece(),
    dataclasses.replace(ours, shift=1),
  )):
    workdir = tmp_path / str(number)
    kept_tokenizer.keep(other, workdir, start, lines.append)
    assert not (workdir / companions.NAME).exists()
    assert kept_tokenizer.folder(other, workdir, start) is None
    assert lines[number].startswith(
      f'data.vocab is not the tokenizer of {start}'
    )
  # The last one has a file of its own, which is kept.
  assert kept_tokenizer.resolved(other, workdir).encode('cat') == other.encode(
    'cat'
  )


def test_of_a_folder_without_tokenizer_settings_come_along(tmp_path):
  made = tmp_path / 'made'
  made.mkdir()
  (made / 'config.json').write_text('{"eos_token_id": 3}')
  kept_tokenizer.keep(tokenizer.vocab(made, SIZE), tmp_path / 'a', str(made))
  assert same(tmp_path / 'a', made)
  kept_tokenizer.keep(vocab.Bytes(), tmp_path / 'b', str(made))
  assert not (tmp_path / 'b').exists()


def test_a_workdir_is_no_folder_of_hugging_face(tmp_path):
  """Its config.json is that of a run."""
  start = tmp_path / 'start'
  begin(start)
  (start / 'config.json').write_text('{}')
  kept_tokenizer.keep(vocab.Ids(SIZE), tmp_path / 'work', str(start))
  assert not (tmp_path / 'work').exists()


def test_a_copy_that_was_changed_is_not_used(own):
  path, mine, workdir = own
  copy = workdir / kept_tokenizer.OWN / path.name
  copy.write_bytes(vocab.SHIPPED.read_bytes())
  with pytest.raises(errors.InputError, match='is damaged: mine.model has'):
    kept_tokenizer.resolved(mine, workdir)


def test_a_copy_is_whole_or_absent(own, monkeypatch):
  """A stop while it is made leaves what was there."""
  path, mine, workdir = own

  def stop(*_):
    raise KeyboardInterrupt

  shutil.copyfile(vocab.SHIPPED, path)
  monkeypatch.setattr(manifest, 'write_manifest', stop)
  with pytest.raises(KeyboardInterrupt):
    kept_tokenizer.keep(vocab.SentencePiece(str(path)), workdir, '')
  monkeypatch.undo()
  assert kept_tokenizer.resolved(mine, workdir).size == 291
  kept_tokenizer.keep(vocab.SentencePiece(str(path)), workdir, '')
  assert kept_tokenizer.resolved(mine, workdir).size == 8192


def test_workdirs_of_before_there_were_copies_still_open(tmp_path, monkeypatch):
  """An import's tokenizer was named by its place then, without checksums."""
  work = tmp_path / 'work'
  spoken.llama(work / companions.NAME)
  ours = vocab.HfTokenizer(
    os.fspath(work / companions.NAME / 'tokenizer.json'),
    '</s>',
    shift=0,
    start_token='<s>',
  )
  ids = ours.encode('the cat')
  moved = tmp_path / 'moved'
  work.rename(moved)
  found = kept_tokenizer.resolved(ours, moved)
  assert (found.encode('the cat'), found.start) == (ids, (1,))
  # One that was trained from a folder has the folder alone.
  begin(tmp_path / 'old')
  start = str(moved / companions.NAME)
  place = kept_tokenizer.folder(found, tmp_path / 'old', start)
  assert place == epath.Path(start)
  # Nothing is fetched to generate or to export.
  monkeypatch.setattr(
    kept_tokenizer.folders, '_fetch', lambda _: pytest.fail('fetched')
  )
  assert kept_tokenizer.folder(found, tmp_path / 'old', 'owner/name') is None


def test_ids_that_are_written_out_are_always_said():
  """Not to be those of a class in transformers; none is null."""
  for ours, ids in (
    (vocab.Bytes(), (0, 1, None)),
    (vocab.SentencePiece(), (0, 1, None)),
    (vocab.Ids(size=9), (None, None, None)),
    (vocab.Ids(size=9, eos_id=3, start_id=4), (4, 3, None)),
  ):
    found = companions.of_vocab(ours)
    assert found.ids == dict(zip(companions.SPECIAL_IDS, ids, strict=True))
    assert found.generation == found.ids


def test_what_a_folder_says_of_ids_goes_out_as_it_came(tmp_path):
  config = {'bos_token_id': None, 'eos_token_id': [5, 6], 'other': 1}
  settings = {'do_sample': True, 'top_p': 0.8, 'eos_token_id': [6, 7]}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  place = epath.Path(tmp_path)
  ours = vocab.Ids(size=9, eos_id=2, start_id=1)
  found = companions.of_folder(place, ours)
  # What it leaves out is of the vocabulary, and padding of nothing.
  want = {'bos_token_id': None, 'eos_token_id': [5, 6], 'pad_token_id': None}
  assert (found.ids, found.generation) == (want, want)
  assert companions.end_ids(place, ours) == [2, 5, 6]
  (tmp_path / 'generation_config.json').write_text(json.dumps(settings))
  assert companions.of_folder(place, ours).generation == settings
  assert companions.end_ids(place, ours) == [2, 6, 7]
  assert companions.end_ids(None, ours) == [2]
  assert companions.end_ids(None, vocab.Ids(size=9)) == []
