"""Chats with a run that has no Hugging Face files: template, ends, exports."""

import json
import types

import pytest
from helpers import spoken

from moejax.config import Run, kept_tokenizer
from moejax.convert import companions
from moejax.core import config_tree, errors
from moejax.data.chat import Chat
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes, HfTokenizer
from moejax.evals.sampling import Sampling
from moejax.model.config import ModelConfig
from moejax.run import generation, turns

RUN = Run(
  model=ModelConfig(
    vocab_size=259, max_length=128, num_layers=1, width=16, num_heads=2
  ),
  data=DataConfig(
    conversations='talks.jsonl',
    chat=Chat('chatml'),
    vocab=Bytes(),
    sequence_length=64,
  ),
)
ENDS = '<|im_end|>'
BRIEF = (
  '{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}'
  '{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}'
)


def trained(workdir='runs/x', run=RUN):
  model = types.SimpleNamespace(config=run.model)
  return types.SimpleNamespace(
    workdir=str(workdir),
    run=run,
    model=model,
    hf_folder=None,
    weights=lambda step, note: (None, 7),
  )


@pytest.fixture
def written(monkeypatch):
  """Texts that a model is to write, one for each prompt, and the prompts."""
  script, prompts = [], []

  def stream(model, weights, asked, sampling, **more):
    prompts.extend(asked)
    assert more['start'] == ()
    for row in range(len(asked)):
      for token in [*Bytes().encode(script.pop(0)), Bytes.eos_id]:
        yield row, token
        if token in more['end_ids']:
          break

  monkeypatch.setattr(generation.generate, 'stream', stream)
  return script, prompts


def request(*prompts, template=''):
  return generation.GenerationRequest(
    prompt=prompts, chat=True, template=template
  )


def text_of(own, *prompts):
  return ''.join(
    generation.pieces(own, request(*prompts), 'newest', lambda _: None)
  )


def test_a_prompt_is_a_chat_and_its_turn_end_ends_the_answer(written):
  script, prompts = written
  script += [f'Yes.{ENDS}\nmore', 'No.']
  assert text_of(trained(), 'Is 2 even?') == 'Yes.\n'
  assert Bytes().decode(prompts[0]) == (
    '<|im_start|>user\nIs 2 even?<|im_end|>\n<|im_start|>assistant\n'
  )
  assert text_of(trained(), 'Is 3 even?') == 'No.\n'


def test_a_template_in_place_of_the_own(written):
  script, prompts = written
  script += ['Yes.']
  run = config_tree.override_all(RUN, [('data.conversations', '')])
  named = request('Is 2 even?', template='vicuna')
  generated = generation.pieces(trained(run=run), named, 'newest', print)
  assert ''.join(generated) == 'Yes.\n'
  assert Bytes().decode(prompts[0]) == 'USER: Is 2 even? ASSISTANT:'
  alone = generation.GenerationRequest(prompt=['a'], template='vicuna')
  with pytest.raises(errors.InputError, match='--template is for --chat'):
    alone.check()


def test_several_chats_and_json(written):
  script, _ = written
  script += [f'Yes.{ENDS} more', 'No.'] * 2
  assert text_of(trained(), 'a', 'b') == '--- 1\nYes.\n--- 2\nNo.\n'
  found = generation.as_json(
    trained(), request('a', 'b'), 'newest', lambda _: None
  )
  rows = json.loads(''.join(found))['texts']
  assert [(row['text'], row['ended_by']) for row in rows] == [
    ('Yes.', 'end'),
    ('No.', 'end'),
  ]


def test_what_is_cut_by_its_length_has_not_ended():
  own = generation.Generation(
    trained(), request('a'), [[65]], (), [1], Sampling(), (ENDS,)
  )
  text = lambda said: [65, *Bytes().encode(said)]
  assert own.ended_by(0, text('x' * 128)) == generation.TOKENS
  assert own.ended_by(0, text('x' + ENDS)) == generation.END
  assert own.ended_by(0, text('x' + ENDS[:-1])) == generation.LENGTH


def test_a_run_of_texts_has_no_chat():
  run = config_tree.override_all(RUN, [('data.conversations', '')])
  with pytest.raises(errors.InputError, match='has no chat template'):
    text_of(trained(run=run), 'a')


def test_a_run_keeps_its_template_when_the_file_has_gone(tmp_path, written):
  file, workdir = tmp_path / 'own.jinja', tmp_path / 'run'
  file.write_text(BRIEF)
  chat = Chat(str(file))
  kept_tokenizer.keep(Bytes(), workdir, '', chat=chat)
  file.unlink()
  own = trained(
    workdir,
    config_tree.override_all(RUN, [('data.chat.template', str(file))]),
  )
  script, prompts = written
  script += ['Yes.']
  assert text_of(own, 'Hi') == 'Yes.\n'
  asked, opened = map(Bytes().encode, ('[user]Hi', '[assistant]'))
  assert prompts[0] == [*asked, Bytes.eos_id, *opened]
  # The template of a run that has begun stays.
  (workdir / kept_tokenizer.CHECKPOINTS / '00000010').mkdir(parents=True)
  kept_tokenizer.keep(Bytes(), workdir, '', chat=Chat('chatml'))
  assert kept_tokenizer.chat_template(workdir).text == BRIEF
  (workdir / 'chat' / companions.TEMPLATE).write_text('other')
  with pytest.raises(errors.InputError, match='is damaged'):
    kept_tokenizer.chat_template(workdir)


def test_special_tokens_of_a_template_are_kept_with_it(tmp_path):
  """They are in a file beside the tokenizer, which is not copied."""
  spoken.FAMILIES['qwen'](tmp_path / 'made')
  path = tmp_path / 'made' / 'tokenizer.json'
  vocab = HfTokenizer(path=str(path))
  run = config_tree.override_all(
    RUN, [('model.vocab_size', '512'), ('data.chat.template', 'deepseek')]
  )
  before = turns.vocab_of(trained(run=run)).template.tokens
  kept_tokenizer.keep(vocab, tmp_path / 'run', '', chat=Chat('deepseek'))
  kept = kept_tokenizer.chat_template(tmp_path / 'run')
  assert kept.tokens == turns.ChatVocab(vocab, Chat('deepseek')).template.tokens
  assert kept.tokens['eos_token'] != before['eos_token']


def test_an_export_has_the_template_and_the_end_of_turns(tmp_path):
  spoken.FAMILIES['qwen'](tmp_path / 'made')
  vocab = HfTokenizer(path=str(tmp_path / 'made' / 'tokenizer.json'))
  workdir = tmp_path / 'run'
  kept_tokenizer.keep(vocab, workdir, '', chat=Chat('chatml'))
  beside = companions.of_vocab(vocab)
  found = kept_tokenizer.with_chat(beside, vocab, workdir)
  assert [*found.files] == [companions.TEMPLATE]
  assert 'im_start' in found.files[companions.TEMPLATE].read_text()
  (end,) = vocab.encode_prompt(ENDS)
  own = beside.generation['eos_token_id']
  assert own != end
  assert found.generation['eos_token_id'] == [own, end]
  assert found.ids == beside.ids
  # Without conversations nothing is added.
  assert kept_tokenizer.with_chat(beside, vocab, tmp_path) == beside
