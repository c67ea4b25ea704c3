"""A conversation in the terminal: its prompts, its ends, and its commands."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from helpers import programs, spoken

from moejax.cli import chat as chat_command
from moejax.config import Run
from moejax.convert import tokenizer
from moejax.core import config_tree, errors, exits, files
from moejax.data.chat import Chat, answers
from moejax.data.chat.messages import Conversation
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.evals import generate
from moejax.evals.sampling import Sampling
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import talk as talks
from moejax.run import turns
from moejax.train import checkpoint

MAX = 256
RUN = Run(
  model=ModelConfig(
    vocab_size=259, max_length=MAX, num_layers=1, width=16, num_heads=2
  ),
  data=DataConfig(
    conversations='talks.jsonl',
    chat=Chat('chatml'),
    vocab=Bytes(),
    sequence_length=MAX,
  ),
)
ENDS = '<|im_end|>'


def trained(run=RUN):
  """What a Talk needs of a model that is not asked for anything."""
  model = types.SimpleNamespace(config=run.model)
  return types.SimpleNamespace(
    workdir='runs/x', run=run, model=model, hf_folder=None
  )


@pytest.fixture
def written(monkeypatch):
  """Answers that a model is to write, and the prompts that it was given."""
  script, prompts = [], []

  def stream(model, weights, asked, sampling, **more):
    prompts.append((asked[0], more))
    for token in Bytes().encode(script.pop(0)) + [Bytes.eos_id]:
      if token in more['end_ids']:
        return
      yield 0, token

  monkeypatch.setattr(talks.generate, 'stream', stream)
  return script, prompts


def talk(settings=None, run=RUN, template=''):
  vocab = turns.vocab_of(trained(run), template)
  settings = settings or talks.Settings(Sampling())
  return talks.Talk(trained(run), None, 3, vocab, settings)


def test_each_prompt_is_the_conversation_so_far(written):
  script, prompts = written
  script += [f'Yes.{ENDS}\nmore', f'No.{ENDS}']
  own = talk(talks.Settings(Sampling(), 9, system='Be brief.'))
  assert ''.join(own.answer('Is 2 even?')) == 'Yes.'
  assert ''.join(own.answer('And 3?')) == 'No.'
  want = (
    '<|im_start|>system\nBe brief.<|im_end|>\n'
    '<|im_start|>user\nIs 2 even?<|im_end|>\n'
    '<|im_start|>assistant\nYes.<|im_end|>\n'
    '<|im_start|>user\nAnd 3?<|im_end|>\n'
    '<|im_start|>assistant\n'
  )
  assert prompts[1][0] == Bytes().encode(want)
  assert prompts[1][1]['start'] == ()
  assert prompts[0][1]['max_new_tokens'] == 9
  assert prompts[0][1]['seed'] != prompts[1][1]['seed']
  own.reset()
  assert own.messages == [{'role': 'system', 'content': 'Be brief.'}]


def test_what_was_said_is_what_would_be_trained_on(written):
  script, prompts = written
  script += [f'Yes.{ENDS}']
  own = talk()
  list(own.answer('Is 2 even?'))
  marked = answers.find(
    own._vocab.template, Conversation('', tuple(own.messages)), 'all_answers'
  )
  ((start, _),) = marked.spans
  assert prompts[0][0] == Bytes().encode(marked.text[:start])


def test_templates_that_end_a_turn_with_eos_end_with_it(written):
  script, prompts = written
  script += ['Yes.']
  own = talk(template='vicuna')
  assert ''.join(own.answer('?')) == ' Yes.'.strip()
  assert prompts[0][1]['end_ids'] == [1]


def test_the_token_that_ends_a_turn_ends_an_answer(tmp_path, monkeypatch):
  spoken.FAMILIES['qwen'](tmp_path)
  ours = dataclasses.replace(
    tokenizer.vocab(tmp_path, 512), eos_token='<|endoftext|>'
  )
  (end,) = ours.encode_prompt(ENDS)
  given = []
  monkeypatch.setattr(
    talks.generate, 'stream', lambda *_, **more: given.append(more) or []
  )
  data = dataclasses.replace(RUN.data, vocab=ours)
  own = talk(run=dataclasses.replace(RUN, data=data), template='chatml')
  assert not ''.join(own.answer('the cat'))
  assert given[0]['end_ids'] == [ours.eos_id, end]


def test_stops_and_an_answer_that_is_interrupted(written):
  script, _ = written
  script += ['one. two', 'one two']
  own = talk(talks.Settings(Sampling(), stops=('. ',)))
  assert ''.join(own.answer('?')) == 'one'
  pieces = own.answer('?')
  for _, piece in zip(range(4), pieces, strict=False):
    assert len(piece) == 1
  pieces.close()
  assert own.messages[-1] == {'role': 'assistant', 'content': 'one'}
  with pytest.raises(errors.InputError, match='must have a character'):
    talk(talks.Settings(Sampling(), stops=('',)))


def test_a_conversation_longer_than_the_context_is_refused_and_kept(written):
  script, _ = written
  script += [f'a{ENDS}']
  own = talk()
  list(own.answer('x'))
  before = [*own.messages]
  with pytest.raises(errors.InputError, match=f'reads {MAX} .* /reset'):
    list(own.answer('x' * MAX))
  assert own.messages == before


@pytest.mark.parametrize(
  ('pieces', 'stops', 'want'),
  [
    (['a E', 'N', 'x', ' EN', 'D b'], ['END'], ['a ', 'ENx', ' ']),
    (['ab', 'c'], [], ['ab', 'c']),
    (['abab', 'c'], ['abc'], ['ab']),
    (['a', 'b'], ['abc', 'b'], ['a']),
    (['E', 'N'], ['END'], ['EN']),
    (['END'], ['END'], []),
  ],
)
def test_text_before_a_stop_string(pieces, stops, want):
  assert [*turns.before_stop(iter(pieces), stops)] == want


def test_text_before_a_stop_string_however_it_is_cut():
  rng = np.random.default_rng(0)
  for _ in range(200):
    text = ''.join(rng.choice([*'ab'], 12))
    stops = [''.join(rng.choice([*'ab'], rng.integers(2, 5)))]
    cuts = sorted(rng.choice(13, 3))
    pieces = np.split([*text], cuts)
    found = turns.before_stop((''.join(p) for p in pieces), stops)
    assert ''.join(found) == text.split(stops[0])[0]


def _converse(own, lines):
  out, notes = [], []
  lines = iter(lines)

  def read():
    line = next(lines, None)
    if line is None:
      raise EOFError
    if isinstance(line, type):
      raise line
    return line

  talks.converse(own, read, out.append, notes.append)
  return ''.join(out), notes


def test_lines_and_commands(written):
  script, _ = written
  script += [f'one{ENDS}', f'two{ENDS}']
  own = talk()
  out, notes = _converse(own, ['a', '', '/reset', 'b', '/quit', '/show'])
  assert out == 'one\ntwo\n'
  assert [m['content'] for m in own.messages] == ['b', 'two']
  assert notes[0] == 'a new conversation'
  assert notes[1].startswith('error: /quit is no command: /reset begins anew')
  assert 'no layer with routed experts' in notes[2]


def test_a_line_of_other_bytes_is_an_error_of_that_line_alone(written):
  script, _ = written
  script += [f'one{ENDS}']
  out, notes = _converse(talk(), ['a \udcff', 'b'])
  assert out == 'one\n'
  assert notes == ["error: 'a \\udcff' is not UTF-8: write the line in UTF-8"]


def test_ctrl_c_at_the_prompt_and_in_an_answer(written, monkeypatch):
  own = talk()

  def stream(*args, **more):
    yield 0, Bytes().encode('h')[0]
    raise KeyboardInterrupt

  monkeypatch.setattr(talks.generate, 'stream', stream)
  out, notes = _converse(own, ['a', KeyboardInterrupt, 'never'])
  assert (out, notes) == ('h\n', [' (interrupted)'])
  assert own.messages[-1]['content'] == 'h'


def test_a_model_without_a_template_needs_one():
  run = config_tree.override_all(RUN, [('data.conversations', '')])
  with pytest.raises(
    errors.InputError, match='set --template to one of chatml'
  ):
    talk(run=run)
  assert talk(run=run, template='chatml')._vocab.turn_end == ENDS


@pytest.mark.soak
def test_the_command_says_what_the_model_writes(
  tmp_path, tmp_path_factory, capsys, monkeypatch
):
  """A model with experts: greedy answers, and what /show prints of them."""
  run = config_tree.override_all(
    RUN, [('model.moe.num_experts', '4'), ('model.moe.router.k', '2')]
  )
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  rng = np.random.default_rng(0)
  draw = lambda x: rng.standard_normal(x.shape).astype(x.dtype)
  weights = jax.tree.map(draw, model.shapes)
  files.atomic_write_json(tmp_path / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as checkpoints:
    state = {'weights': weights, 'opt_state': {'count': np.int32(2)}}
    checkpoints.save(2, jax.tree.map(np.asarray, state), {'metric': 1.0})
  lines = iter(['Hi', '/show 0'])
  monkeypatch.setattr('builtins.input', lambda _: next(lines, None) or _end())
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    flags = [f'--workdir={tmp_path}', '--temperature=0', '--max_new_tokens=20']
    assert exits.call(chat_command.main, flags) == 0
    out, err = capsys.readouterr()
    prompt = Bytes().encode(
      '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    )
    (new,) = generate.generate(
      model, weights, [prompt], Sampling(), max_new_tokens=20, end_ids=[1],
      start=(),
    )  # fmt: skip
  said = Bytes().decode(new).partition(ENDS)[0]
  assert out.startswith(said + '\n')
  assert 'layer 0' in out
  assert 'checkpoint of step 2' in err


def _end():
  raise EOFError
