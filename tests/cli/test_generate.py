"""The generate command: from a workdir to text."""

import json
import re
import types

import jax
import numpy as np
import pytest
from helpers import programs

from moejax.cli import generate
from moejax.config import Run
from moejax.core import config_tree, errors, exits, files, terminal, trees
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes, SentencePiece
from moejax.evals import generate as generation
from moejax.evals import samples, sampling
from moejax.evals import spoken as spoken_text
from moejax.evals.subject import Subject
from moejax.model import build, formed, rounded
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import generation as run_generation
from moejax.run import prompts_file
from moejax.train import checkpoint, lora

RUN = Run(
  model=ModelConfig(
    vocab_size=259, max_length=64, num_layers=1, width=16, num_heads=2
  ),
  data=DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=64),
)
PROMPT = 'In the beginning'
GREEDY = '--temperature=0'
GREEDILY = generation.Sampling()


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  """Every command compiles its programs anew, the same ones in many tests."""
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


def _drawn(model, step):
  rng = np.random.default_rng(step)
  draw = lambda x: rng.standard_normal(x.shape).astype(x.dtype)
  return jax.tree.map(draw, model.shapes)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A workdir with two checkpoints; its model, and the newer weights.

  By its validation loss the older is the better one.
  """
  folder = tmp_path_factory.mktemp('run')
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(RUN.model, mesh)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(RUN))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    for step, loss in ((10, 2.0), (20, 3.0)):
      weights = _drawn(model, step)
      # As in a training state there is more than weights.
      state = {'weights': weights, 'opt_state': {'count': np.int32(step)}}
      checkpoints.save(step, jax.tree.map(np.asarray, state), {'metric': loss})
  return folder, model, weights


def _new_text(trained, prompt, row=0, how=None):
  _, model, weights = trained
  ids = [Bytes().encode('a')] * row + [Bytes().encode(prompt)]
  new = generation.generate(
    model, weights, ids, how or GREEDILY, max_new_tokens=20, end_ids=[1]
  )
  return Bytes().decode([*ids[row], *new[row]])


def test_one_prompt_is_spoken(trained, capsys):
  flags = [f'--workdir={trained[0]}', f'--prompt={PROMPT}', GREEDY]
  generate.main([*flags, '--max_new_tokens=20'])
  out, err = capsys.readouterr()
  assert out == _new_text(trained, PROMPT) + '\n'
  assert out.startswith(PROMPT)
  assert 'step 20' in err


@pytest.mark.parametrize(
  'name', ['int8', pytest.param('float8_e4m3', marks=pytest.mark.soak)]
)
def test_rounded_weights_write_what_their_numbers_say(trained, name, capsys):
  flags = [f'--workdir={trained[0]}', f'--prompt={PROMPT}', GREEDY]
  generate.main([*flags, '--max_new_tokens=20', f'--weights={name}'])
  out, err = capsys.readouterr()
  folder, model, weights = trained
  forms = lora.forms_of(trees.leaves(model.shapes), lora.Lora())
  # Rounded and formed again here, by its own bounds in tests/model.
  own = rounded.of(model, name, forms).round(weights)
  formed_again = formed.arrays(own)
  assert out == _new_text((folder, model, formed_again), PROMPT) + '\n'
  # One dense layer: 4 D^2 of attention and 3 D F of its feed-forward, and all
  # numbers are in 4 bytes or in 1, with a scale for each of their outputs.
  assert f'weights in {name}: 0.1 MB in place of 0.2 MB' in err


def test_tokens_are_drawn_as_in_a_report_unless_told_otherwise(trained, capsys):
  flags = [f'--workdir={trained[0]}', f'--prompt={PROMPT}']
  generate.main([*flags, '--max_new_tokens=20'])
  out, err = capsys.readouterr()
  want = _new_text(trained, PROMPT, how=sampling.USUAL)
  assert out == want + '\n'
  assert 'drawn with temperature 0.7, top_p 0.9' in err
  assert want != _new_text(trained, PROMPT)


def test_a_report_s_samples_are_what_generate_says(trained, monkeypatch):
  """The same start, the same draws: one way for both."""
  _, model, weights = trained
  monkeypatch.setattr(samples, 'PROMPTS', (PROMPT,))
  monkeypatch.setattr(samples, 'NEW_TOKENS', 20)
  data = types.SimpleNamespace(vocab=Bytes(), length=64)
  subject = Subject(model, weights, data)
  want = _new_text(trained, PROMPT, how=sampling.USUAL)
  assert samples.samples(subject) == {PROMPT: {'text': want}}
  # A vocabulary whose texts begin otherwise.
  said = []
  monkeypatch.setattr(
    samples.generate, 'generate', lambda *_, **more: said.append(more) or [[]]
  )
  data.vocab = types.SimpleNamespace(
    start=(7, 8), eos_id=5, encode=Bytes().encode, decode=Bytes().decode
  )
  samples.samples(subject)
  assert (said[0]['start'], said[0]['end_ids']) == ((7, 8), [5])
  # Room for the start is kept, too.
  data.length = len(PROMPT) + 2
  assert samples.samples(subject) == {}
  data.vocab = None
  assert samples.samples(subject) == {}


def test_ids_are_a_prompt_as_they_are(trained, capsys):
  flags = [f'--workdir={trained[0]}', GREEDY, '--max_new_tokens=20']
  ids = ','.join(map(str, [0, *Bytes().encode(PROMPT)]))
  generate.main([*flags, f'--prompt_ids={ids}'])
  assert capsys.readouterr().out == _new_text(trained, PROMPT) + '\n'
  # Nothing is put before them.
  _, model, weights = trained
  ids = [107, 108]
  (new,) = generation.generate(
    model, weights, [ids], GREEDILY, max_new_tokens=20, end_ids=[1], start=()
  )
  generate.main([*flags, '--prompt_ids=107,108'])
  assert capsys.readouterr().out == Bytes().decode([*ids, *new]) + '\n'


@pytest.mark.parametrize('step', ['best', '10'])
def test_another_checkpoint_speaks_if_asked_for(trained, step, capsys):
  folder, model, _ = trained
  flags = [f'--workdir={folder}', f'--prompt={PROMPT}', f'--step={step}']
  generate.main([*flags, GREEDY, '--max_new_tokens=20'])
  out, err = capsys.readouterr()
  older = folder, model, _drawn(model, 10)
  assert out == _new_text(older, PROMPT) + '\n'
  assert out != _new_text(trained, PROMPT) + '\n'
  assert 'checkpoint of step 10' in err


def test_several_prompts_are_printed(trained, capsys):
  flags = [
    f'--workdir={trained[0]}',
    '--prompt=a',
    f'--prompt={PROMPT}',
    GREEDY,
  ]
  generate.main([*flags, '--max_new_tokens=20'])
  out = capsys.readouterr().out
  first, second = _new_text(trained, 'a'), _new_text(trained, PROMPT, row=1)
  assert out == f'--- 1\n{first}\n--- 2\n{second}\n'


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--prompt=' + 64 * 'x'], 'prompt 0 has 64 tokens'),
    (['--prompt=x', '--top_p=2'], 'top_p=2'),
    (['--prompt=x', '--top_p=nan'], '--top_p=nan must be finite'),
    (['--prompt=x', '--top_k=-1'], '--top_k=-1 must be 0 or more'),
    (['--prompt=x', '--temperature=hot'], 'hot'),
    (['--prompt=x', '--temperature=inf'], '--temperature=inf must be 0 or'),
    (['--prompt=x', '--seed=-1'], '--seed=-1 must be from 0'),
    (['--prompts_file=/no/such.txt'], '/no/such.txt cannot be read: No such'),
    (['--prompt=x', f'--seed={2**80}'], f'--seed={2**80} must be from 0'),
    (['--prompt=caf\udce9'], 'is not UTF-8'),
    (['--prompt=x', GREEDY, '--top_k=3'], '--top_k does nothing'),
    (['--prompt=x', GREEDY, '--seed=3'], '--seed does nothing'),
    (['--prompt=x', '--prompt_ids=1'], 'give --prompt or --prompt_ids'),
    (['--prompt_ids=1', '--chat'], '--chat is for --prompt'),
    (['--prompt_ids=1', '--no-special_tokens'], '--no-special_tokens is for'),
    (['--prompt_ids=1,x'], "invalid list of ids value: '1,x'"),
    (['--prompt_ids=1,259'], 'prompt 0 has the token id 259'),
    (['--prompt=x', '--chat'], 'has no chat template'),
    (['--prompt=x', '--step=15'], 'no checkpoint 15 in'),
    (['--prompt=x', '--weights=int4'], "did you mean 'int8'? known are: fl"),
    (
      [
        '--prompt=x',
        '--weights=int8',
        '--show-routing',
        '--intervene=active=1',
      ],
      '--intervene is of full weights: leave out --weights=int8',
    ),
    (['--prompt=x', '--step=last'], "--step='last' is newest, best or"),
    (['--prompt=x', '--config.mesh.fdsp=1'], 'mesh.fsdp'),
    (['--prompt=x', '--config.train.steps=4'], 'train.steps=4 does not change'),
    (['--prompt=x', '--config.data.files=a'], 'data.files=a does not change'),
    (['--prompt=x', '--max-new-tokens=4'], 'did you mean --max_new_tokens?'),
    (['--prompt=x', '--config.model.width=32'], 'of another model'),
    ([], '--prompt'),
  ],
)
def test_bad_input_is_one_line(trained, flags, message, capsys):
  call = [f'--workdir={trained[0]}', *flags]
  assert exits.call(generate.main, call) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert message in err.splitlines()[-1]
  assert not out


def test_a_text_that_the_model_cuts_off_says_so_and_how_fast_it_was(
  trained, capsys
):
  flags = [f'--workdir={trained[0]}', f'--prompt={PROMPT}', GREEDY]
  generate.main([*flags, '--max_new_tokens=20'])
  short = capsys.readouterr().err
  assert 'max_length' not in short
  assert re.search(
    r'^20 tokens, [\d,.]+ tokens/s after the first$', short, re.M
  )
  length = trained[1].config.max_length
  generate.main([*flags, f'--max_new_tokens={length + 9}', '--json'])
  out, err = capsys.readouterr()
  (text,) = json.loads(out)['texts']
  assert text['ended_by'] == 'max_length'
  assert len(text['ids']) == length - len(PROMPT)
  assert f'the text ends at model.max_length={length}, the longest' in err


def test_prompts_of_a_file_and_texts_as_data(trained, tmp_path, capsys):
  lines, data = tmp_path / 'a.txt', tmp_path / 'a.jsonl'
  lines.write_text(f'a\n\n{PROMPT}\n')
  data.write_text(f'{{"prompt": "a"}}\n{{"prompt": {json.dumps(PROMPT)}}}\n')
  flags = [f'--workdir={trained[0]}', GREEDY, '--max_new_tokens=20', '--json']
  found = []
  for file in (lines, data):
    generate.main([*flags, f'--prompts_file={file}'])
    found.append(json.loads(capsys.readouterr().out))
  assert found[0] == found[1]
  assert (found[0]['workdir'], found[0]['step']) == (str(trained[0]), 20)
  first, second = found[0]['texts']
  assert 'a' + first['text'] == _new_text(trained, 'a')
  assert (second['prompt'], second['ended_by']) == (PROMPT, 'max_new_tokens')
  assert PROMPT + second['text'] == _new_text(trained, PROMPT, row=1)
  assert Bytes().decode(second['ids']) == second['text']


@pytest.mark.parametrize(
  ('name', 'text', 'words'),
  [
    ('a.txt', '\n \n', 'has no prompt'),
    ('a.jsonl', '{"prompt": "x"}\n{"text": "x"}', 'a.jsonl:2: not a JSON obj'),
    ('a.jsonl', '[3', 'a.jsonl:1: not a JSON object'),
  ],
)
def test_a_file_without_prompts_is_one_line(name, text, words, tmp_path):
  (tmp_path / name).write_text(text)
  with pytest.raises(errors.InputError, match=words):
    prompts_file.read(str(tmp_path / name))


def test_line_separators_of_unicode_end_no_line_of_a_file(tmp_path):
  file = tmp_path / 'a.jsonl'
  file.write_text('\ufeff{"prompt": "a\u2028b\x85c"}\r\n{"prompt": "d"}\n')
  assert prompts_file.read(str(file))[0] == ['a\u2028b\x85c', 'd']


def test_the_speed_leaves_out_the_first_tokens():
  assert run_generation.speed([5, 6, 6.5], 1).startswith(
    '3 tokens, 1.3 tokens/s'
  )
  assert run_generation.speed([5.0], 1) == '1 token'
  assert run_generation.speed([], 1) == '0 tokens'
  # Four later tokens of two texts, in two seconds.
  words = run_generation.speed([1, 1, 2, 2, 3, 3], 2)
  assert words == '6 tokens, 2.0 tokens/s after the first of each text'


def test_no_workdir_and_no_checkpoint(trained, tmp_path, capsys):
  flags = [f'--workdir={tmp_path}', '--prompt=x']
  assert exits.call(generate.main, flags) == exits.BAD_INPUT
  assert 'config.json' in capsys.readouterr().err
  (tmp_path / 'config.json').write_text(
    (trained[0] / 'config.json').read_text()
  )
  assert exits.call(generate.main, flags) == exits.BAD_INPUT
  assert 'no checkpoint' in capsys.readouterr().err


@pytest.mark.parametrize('vocab', [Bytes(), SentencePiece()])
def test_pieces_are_whole_characters_and_give_the_text(vocab):
  text = '  Où est 漢字?\n\tnaïve 🙂  end '
  ids = vocab.encode(text)
  spoken = spoken_text.Spoken(vocab)
  pieces = [spoken.add(*ids[:2])] + [spoken.add(i) for i in ids[2:]]
  pieces.append(spoken.rest())
  assert ''.join(pieces) == text
  assert spoken_text.REPLACEMENT not in ''.join(pieces)
  # It does come in pieces, and some tokens are less than a character.
  assert sum(map(bool, pieces)) > 10
  assert '' in pieces[:-1]


def test_bytes_that_never_become_a_character_are_not_lost():
  vocab = SentencePiece()
  start, broken = vocab.encode('a'), vocab.encode('漢')[:-1]
  spoken = spoken_text.Spoken(vocab)
  assert spoken.add(*start, *broken) == 'a'
  rest = spoken.rest()
  assert rest
  assert 'a' + rest == vocab.decode([*start, *broken])
  tokens = iter([(0, token) for token in broken])
  pieces = run_generation.spoken_pieces(vocab, start, tokens)
  assert ''.join(pieces) == f'a{rest}\n'


def test_a_terminal_is_not_commanded(capsys, monkeypatch):
  monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
  terminal.write('a\x1b[2Jé\n')
  assert capsys.readouterr().out == 'a?[2Jé\n'
