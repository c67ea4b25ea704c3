"""Prompts with images, asked of the model of a workdir."""

import json
import re
import types

import numpy as np
import pytest
from helpers import generated_cases, programs
from helpers import llava as helper
from PIL import Image

from moejax.cli import convert, evaluate, generate
from moejax.convert import chat
from moejax.core import errors
from moejax.data.chat import Chat, templates
from moejax.data.chat.messages import Conversation
from moejax.data.chat.tokens import ChatVocab
from moejax.data.images import Images
from moejax.data.images.vocab import ImageVocab
from moejax.data.vocab import Bytes
from moejax.evals import image_engine, picture
from moejax.evals.benchmark import Prompt
from moejax.evals.sampling import Sampling
from moejax.evals.sight import Sight
from moejax.run import prompt_ids, prompts_file, sights, talk, trained, turns

QUIET = lambda *_: None
TEMPLATE = """{{ 'w7 ' }}{% for m in messages %}
{{- ' w8 ' if m['role'] == 'assistant' else ' w3 ' }}{{ m['content'] }}
{%- endfor %}{% if add_generation_prompt %}{{ ' w8 ' }}{% endif %}"""
IMAGE, EACH = 59, 4


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder of a LLaVA, its workdir, and photos."""
  path = tmp_path_factory.mktemp('place')
  source = helper.speaking(path / 'hf', template=TEMPLATE)
  convert.main(['import', str(source), f'--workdir={path / "run"}'])
  rng = np.random.default_rng(0)
  for name in ('a.png', 'b.png'):
    pixels = rng.integers(0, 256, (20, 18, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path / name)
  return path


@pytest.fixture(scope='module')
def own(place):
  """The model of the workdir, its weights, and how it reads images."""
  opened = trained.open_trained(str(place / 'run'))
  return opened, opened.weights('newest', QUIET)[0], sights.of(opened)


@pytest.fixture(scope='module')
def folder_engine(place):
  return image_engine.open_folder(str(place / 'hf'), helper.mesh())


def photo(place, name):
  return picture.of_file(str(place / name), f'--image={name}')


def test_a_workdir_reads_prompts_as_its_folder_does(place, own, folder_engine):
  """By the front end, and by the three parts of the folder."""
  opened, weights, sight = own
  photos = [photo(place, name) for name in ('b.png', 'a.png')]
  text = 'w5 <image> w6 <image> w9'
  ids = sight.ids(text, ())
  # No id of a text stands for a feature.
  assert ids.count(opened.model.config.vocab_size) == 2 * EACH
  assert sight.text(ids) == [5, *[IMAGE] * EACH, 6, *[IMAGE] * EACH, 9]
  theirs = folder_engine.sight
  wanted = theirs.read(folder_engine.weights, theirs.ids(text, ()), photos)
  found = sight.read(weights, ids, photos)
  np.testing.assert_allclose(found, wanted, 1e-5, 1e-5)
  other = sight.read(weights, ids, photos[::-1])
  assert not np.allclose(other[1], found[1])


def test_prompts_have_the_ids_of_the_rows_that_are_trained_on():
  """Of bytes, where no id is the image token alone: '>' is in texts too."""
  images, chat_vocab = Images(tokens=EACH), ChatVocab(Bytes(), Chat('vicuna'))
  store = types.SimpleNamespace(numbers={'a.png': 0}, problems={})
  library = types.SimpleNamespace(store=store, images=images)
  asked = {'role': 'user', 'content': '1 > 0? <image>'}
  answer = {'role': 'assistant', 'content': 'Yes'}
  vocab = ImageVocab(ChatVocab(Bytes(), Chat('vicuna'), length=256), library)
  conversation = Conversation('', (asked, answer), ('a.png',))
  stored_T = vocab._encoded(conversation).ids_T
  row = np.where(stored_T < 0, ~stored_T, stored_T)
  model = types.SimpleNamespace(image_token=259, num_features=EACH, text_id=65)
  sight = Sight(model, Bytes(), images.prepare, parts_first=False)
  text = sight.rendered(chat_vocab.template, [asked])
  ids = sight.ids(text, chat_vocab.start)
  # The row begins behind the id that all conversations begin with.
  assert ids[1:] == row[: len(ids) - 1].tolist()
  assert Bytes().decode(row[len(ids) - 1 :]).strip().startswith('Yes')
  assert ids.count(259) == EACH
  assert ids.count(Bytes().encode('>')[0]) == 1
  assert sight.text(ids).count(65) - text.count('>') >= 0


def test_a_text_reaches_a_template_that_reads_lists_of_parts(own, monkeypatch):
  opened, _, _ = own
  listed = TEMPLATE.replace(
    "{{ m['content'] }}",
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}",
  )
  monkeypatch.setattr(templates, 'of_folder', lambda _: listed)
  monkeypatch.setattr(chat, 'template', lambda _: listed)
  wanted = opened.run.data.vocab.encode_prompt('w7 w3 w5 w8')
  request = prompt_ids.GenerationRequest(prompt=['w5'], chat=True)
  assert prompt_ids.read(opened, request).ids == [wanted]
  with pytest.raises(errors.InputError, match='leaves out what users say'):
    turns.asked(turns.vocab_of(opened), 'w5')


def called(command, place, *flags, run='run'):
  return command.main([
    f'--workdir={place / run}', '--temperature=0', '--max_new_tokens=3', *flags,
  ])  # fmt: skip


def test_generate_continues_prompts_with_images(
  place, own, folder_engine, capsys
):
  """As the folder's own engine does; a prompt takes the images that it says."""
  (place / 'more.jsonl').write_text(
    json.dumps({'prompt': 'w3 <image> w4', 'images': ['a.png']})
  )
  called(
    generate, place, '--prompt=w5 <image> w6', f'--image={place / "b.png"}',
    f'--prompts_file={place / "more.jsonl"}', '--json',
  )  # fmt: skip
  texts = json.loads(capsys.readouterr().out)['texts']
  asked = [
    Prompt(text, lambda _: {}, max_tokens=3, images=(photo(place, name),))
    for text, name in (('w5 <image> w6', 'b.png'), ('w3 <image> w4', 'a.png'))
  ]
  plain = image_engine.dataclasses.replace(folder_engine, template=None)
  assert [one['text'] for one in texts] == plain.generate(asked)
  assert texts[0]['text'] != texts[1]['text']
  assert len(texts[0]['ids']) == 3


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--prompt=<image> w5'], 'have 1 <image>, and 0 images'),
    (['--prompt=w5', '--prompt=w6', '--image=a.png'], 'have 0 <image>, and 1'),
    (['--prompt=w5', '--image=c.png'], "--image=c.png: image 'c.png' is not"),
    (['--prompt_ids=1', '--image=a.png'], '--image=a.png is for --prompt'),
    (
      ['--prompt=w5', '--image=a.png', '--show-routing'],
      'experts of texts alone',
    ),
    (
      ['--prompt=w5', '--image=a.png', '--no-special_tokens'],
      '<image> in a prompt is a special token',
    ),
  ],
)
def test_images_that_cannot_be_shown_are_one_line(
  flags, message, place, monkeypatch
):
  monkeypatch.chdir(place)
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    called(generate, place, *flags)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (
      [{'prompt': 'w5 <image>', 'images': ['a', 'b']}],
      '2 images and 1 <image>',
    ),
    ([{'prompt': 'w5', 'image': 3}], 'images must be a path, or a list of'),
    (
      [{'prompt': 'w5', 'image': 'a'}, {'prompt': '<image>'}],
      'names 1 images, and its prompts have 2 <image>',
    ),
  ],
)
def test_a_file_whose_images_do_not_fit_is_one_line(rows, message, tmp_path):
  path = tmp_path / 'prompts.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  with pytest.raises(errors.InputError, match=re.escape(message)):
    prompts_file.read(str(path))


def test_an_image_before_its_prompt_and_below_the_folder(tmp_path):
  path = tmp_path / 'prompts.jsonl'
  path.write_text(json.dumps({'prompt': 'What?', 'image': 'x/a.png'}))
  prompts, (image,) = prompts_file.read(str(path))
  assert prompts == ['<image>\nWhat?']
  assert (image.folder, image.name) == (str(tmp_path), 'x/a.png')


def of_text(own):
  """The same model without its front end."""
  opened = own[0]
  text = types.SimpleNamespace(vision=None)
  return types.SimpleNamespace(
    workdir='runs/text',
    run=opened.run,
    hf_folder=opened.hf_folder,
    model=types.SimpleNamespace(config=text),
  )


def test_a_model_of_text_is_named_in_one_line(own, place):
  blind = of_text(own)
  request = generate.generation.GenerationRequest(
    prompt=['w5'], images=[photo(place, 'a.png')]
  )
  with pytest.raises(errors.InputError, match='runs/text reads text alone'):
    generate.generation.prepare(blind, request, QUIET)
  vocab = turns.vocab_of(own[0])
  speaker = talk.Talk(blind, None, 0, vocab, talk.Settings(Sampling()))
  with pytest.raises(errors.InputError, match='runs/text reads text alone'):
    speaker.see('a.png')
  assert '/image' not in speaker.help


@pytest.fixture
def heard(monkeypatch):
  """The prompts that a conversation gives to the model."""
  asked = []

  def stream(model, weights, prompts, sampling, **more):
    asked.append((prompts[0], more['embedding_BLD']))
    yield 0, 11

  monkeypatch.setattr(talk.generate, 'stream', stream)
  return asked


def test_a_conversation_keeps_its_images(own, place, heard):
  """The second question is asked after the first with its image."""
  opened, weights, sight = own
  vocab = turns.vocab_of(opened)
  speaker = talk.Talk(opened, weights, 0, vocab, talk.Settings(Sampling()))
  assert '/image FILE' in speaker.help
  lines = [f'/image {place / "a.png"}', 'w5', 'w6']
  said, notes = [], []

  def read():
    if not lines:
      raise EOFError
    return lines.pop(0)

  talk.converse(speaker, read, said.append, notes.append)
  assert ''.join(said).split() == ['w11', 'w11']
  first = [7, 3, *[IMAGE] * EACH, 5, 8]
  both = [*first, 11, 3, 6, 8]
  assert [ids for ids, _ in heard] == [first, both]
  (_, one_BLD), (_, both_BLD) = heard
  wanted = sight.read(
    weights,
    [opened.model.config.vocab_size if i == IMAGE else i for i in both],
    [photo(place, 'a.png')],
  )
  np.testing.assert_allclose(both_BLD[0], wanted, 1e-5, 1e-5)
  np.testing.assert_allclose(one_BLD[0], wanted[: len(first)], 1e-5, 1e-5)
  with pytest.raises(errors.InputError, match='this conversation has images'):
    speaker.show(None, '0')
  speaker.reset()
  assert speaker.pictures == []


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('/image', 'needs the path of an image'),
    ('/image nowhere.png', "image 'nowhere.png' is not there"),
    ('<image> w5', '1 <image> and 0 images'),
  ],
)
def test_lines_that_cannot_be_used_leave_the_conversation(
  line, message, own, heard
):
  opened, weights, _ = own
  vocab = turns.vocab_of(opened)
  speaker = talk.Talk(opened, weights, 0, vocab, talk.Settings(Sampling()))
  lines, notes = [line], []
  read = lambda: lines.pop() if lines else (_ for _ in ()).throw(EOFError)
  talk.converse(speaker, read, QUIET, notes.append)
  assert message in notes[0]
  assert (speaker.messages, heard) == ([], [])


def test_evaluate_asks_the_benchmarks_of_images(
  place, folder_engine, monkeypatch, capsys
):
  """The answers are those of `cli.llava` with the folder, in the template."""
  row = {'image': {'path': 'a.png'}, 'answer': 'yes', 'category': 'random'}
  rows = [{**row, 'question': f'w5 w{n}'} for n in (3, 4)]
  generated_cases.write_rows(place / 'rows', 'pope', 'test', rows)
  (place / 'rows' / 'pope' / 'a.png').write_bytes(
    (place / 'a.png').read_bytes()
  )
  asked, engine = [], image_engine.ImageEngine
  whole = engine.generate

  def generated(self, prompts, *rest):
    texts = whole(self, prompts, *rest)
    asked.append((prompts, texts))
    return texts

  monkeypatch.setattr(engine, 'generate', generated)
  evaluate.main([
    f'--workdir={place / "run"}', '--suite=vision', '--tasks=pope',
    f'--data={place / "rows"}',
  ])  # fmt: skip
  assert re.search(r'\| pope +\|', capsys.readouterr().out)
  ((prompts, texts),) = asked
  assert [one.images[0].name for one in prompts] == ['a.png'] * 2
  assert texts == whole(folder_engine, prompts)
  assert len({*texts}) == 2


def test_tasks_without_images_are_asked_of_the_text_engine(own):
  opened, weights, _ = own

  class Text:
    track = staticmethod(lambda items, *_: iter(items))

    def likelihoods(self, pairs):
      return [('likelihood', pair) for pair in pairs]

    def generate(self, prompts, *_):
      return ['said' for _ in prompts]

  engine = sights.engine(opened, weights, Text(), QUIET)
  assert engine.likelihoods([('a', 'b')]) == [('likelihood', ('a', 'b'))]
  assert engine.generate([Prompt('w5', lambda _: {})]) == ['said']
