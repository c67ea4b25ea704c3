"""The convert command: inspect, import, generate, train from, export."""

import json
import shutil

import numpy as np
import pytest
from helpers import hf, programs

from moejax.cli import convert, generate
from moejax.convert import companions, folder, tensor_files
from moejax.core import errors, exits, files, trees
from moejax.evals import generate as generation
from moejax.run import restore
from moejax.train import loop, state_files

TOKENIZER = {
  'version': '1.0',
  'added_tokens': [
    {
      'id': i,
      'content': f'<{name}>',
      'special': True,
      'single_word': False,
      'lstrip': False,
      'rstrip': False,
      'normalized': False,
    }
    for i, name in enumerate(['unk', 'bos', 'eos'])
  ],
  'pre_tokenizer': {'type': 'WhitespaceSplit'},
  'post_processor': {
    'type': 'TemplateProcessing',
    'single': [
      {'SpecialToken': {'id': '<bos>', 'type_id': 0}},
      {'Sequence': {'id': 'A', 'type_id': 0}},
    ],
    'pair': [
      {'Sequence': {'id': 'A', 'type_id': 0}},
      {'Sequence': {'id': 'B', 'type_id': 1}},
    ],
    'special_tokens': {
      '<bos>': {'id': '<bos>', 'ids': [1], 'tokens': ['<bos>']}
    },
  },
  'model': {
    'type': 'WordLevel',
    'unk_token': '<unk>',
    'vocab': {'<unk>': 0, '<bos>': 1, '<eos>': 2, 'to': 3, 'be': 4, 'or': 5},
  },
}


GENERATION = {
  'do_sample': True,
  'temperature': 0.6,
  'top_p': 0.95,
  'top_k': 20,
  'repetition_penalty': 1.05,
  'eos_token_id': [2, 5],
}


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  """Every command compiles its programs anew, the same ones in many tests."""
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture
def there(tmp_path):
  """OLMoE with a tokenizer."""
  target = tmp_path / 'olmoe'
  shutil.copytree(hf.GOLDEN / 'olmoe', target)
  speak(target)
  return target


def speak(target):
  """Gives a folder a tokenizer and ids of special tokens."""
  (target / 'tokenizer.json').write_text(json.dumps(TOKENIZER))
  settings = {
    'bos_token': '<bos>',
    'eos_token': {'content': '<eos>'},
    'tokenizer_class': 'PreTrainedTokenizerFast',
  }
  (target / 'tokenizer_config.json').write_text(json.dumps(settings))
  config = json.loads((target / 'config.json').read_text())
  ids = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': None}
  (target / 'config.json').write_text(json.dumps(config | ids))


def tensors(path):
  return {
    name: np.array(entry.read())
    for name, entry in folder.open_folder(str(path)).tensors.items()
  }


def test_in_and_out(there, tmp_path, capsys, monkeypatch):
  # Layers are apart in the checkpoint, as large ones are.
  monkeypatch.setattr(state_files, 'LAYER_BYTES', 1)
  workdir, target = tmp_path / 'work', tmp_path / 'out'
  convert.main(['inspect', str(there)])
  out = capsys.readouterr().out
  assert 'a olmoe, 69 tensors (69 of BF16)' in out
  assert 'Fits olmoe: ' in out
  assert 'model.qk_norm = width' in out
  convert.main(['import', str(there), f'--workdir={workdir}'])
  vocab = restore.run_of(str(workdir)).data.vocab
  assert vocab.encode('be or') == [4, 5]
  assert (vocab.start, vocab.eos_id, vocab.size) == ((1,), 2, 6)
  convert.main([
    'export',
    f'--workdir={workdir}',
    f'--to={target}',
    '--dtype=bfloat16',
  ])
  before, after = tensors(there), tensors(target)
  assert before.keys() == after.keys()
  for name, x in before.items():
    assert x.tobytes() == after[name].tobytes(), name
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (target / name).read_bytes() == (there / name).read_bytes()
  config = json.loads((target / 'config.json').read_text())
  assert (config['bos_token_id'], config['eos_token_id']) == (1, 2)
  assert config['pad_token_id'] is None
  generation = json.loads((target / 'generation_config.json').read_text())
  ids = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': None}
  assert generation == ids


@pytest.mark.parametrize('size', ['0', '-1', 'nan', 'inf'])
def test_files_of_no_size_are_refused(size):
  argv = ['export', '--workdir=work', '--to=out', f'--file_gb={size}']
  with pytest.raises(errors.InputError, match=f'--file_gb={size} must be'):
    convert.main(argv)


@pytest.mark.parametrize(
  'argv',
  [
    ['import', 'there', '--workdir=gs://bucket/x'],
    ['export', '--workdir=work', '--to=gs://bucket/x'],
    ['upcycle', '--workdir=work', '--to=gs://bucket/x'],
  ],
)
def test_what_is_written_is_of_this_machine(argv, tmp_path, monkeypatch):
  """A folder called gs: would be made here."""
  monkeypatch.chdir(tmp_path)
  message = '=gs://bucket/x must be a folder of this machine'
  with pytest.raises(errors.InputError, match=message):
    convert.main(argv)
  assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_a_moved_model_speaks_after_its_own_start_and_template(
  there, tmp_path, capsys, monkeypatch
):
  template = '{{ bos_token }} {{ messages[0].content }} <unk>'
  (there / 'chat_template.jinja').write_text(template)
  convert.main(['import', str(there), f'--workdir={tmp_path / "work"}'])
  _, model, weights = hf.read(there)
  shutil.rmtree(there)
  workdir = (tmp_path / 'work').rename(tmp_path / 'moved')
  vocab = restore.run_of(str(workdir)).data.vocab
  inputs, real = [], generation.stream

  def record(model, weights, prompts, *given, start, **more):
    (prompt,) = prompts
    inputs.append(generation.begun(prompt, start))
    return answer(model, weights, prompts, *given, start=start, **more)

  def speak_after(prompt, *more):
    capsys.readouterr()
    generate.main([
      f'--workdir={workdir}',
      f'--prompt={prompt}',
      '--max_new_tokens=3',
      '--temperature=0',
      *more,
    ])
    return capsys.readouterr().out.rstrip('\n')

  answer = real
  monkeypatch.setattr(generation, 'stream', record)
  said = speak_after('to be')
  monkeypatch.undo()
  (new,) = hf.generate.generate(
    model,
    weights,
    [[1, 3, 4]],
    hf.sampling.Sampling(),
    max_new_tokens=3,
    end_ids=[2],
    start=(),
  )
  assert inputs == [[1, 3, 4]]
  assert said == vocab.decode([3, 4, *new])

  answer = lambda *_, **__: iter([(0, 4), (0, 5)])
  monkeypatch.setattr(generation, 'stream', record)
  # With special tokens as such, or as parts of a word that it does not know.
  for prompt, more, ids, shown in (
    ('to<eos>be', [], [1, 3, 2, 4], [3, 2, 4]),
    ('<bos> to be', [], [1, 3, 4], [1, 3, 4]),
    ('to<eos>be', ['--no-special_tokens'], [1, 0], [0]),
    ('to be', ['--chat'], [1, 3, 4, 0], []),
  ):
    said = speak_after(prompt, *more)
    assert inputs.pop() == ids, prompt
    assert said == vocab.decode([*shown, 4, 5]), prompt


def test_an_imported_model_draws_and_ends_as_it_says(
  there, tmp_path, capsys, monkeypatch
):
  (there / 'generation_config.json').write_text(json.dumps(GENERATION))
  workdir = tmp_path / 'work'
  convert.main(['import', str(there), f'--workdir={workdir}'])
  asked = []

  def stream(*given, **more):
    asked.append((given, more))
    yield from [(0, 4), (0, 5)]  # 'be', and a token that ends a text

  monkeypatch.setattr(generation, 'stream', stream)
  capsys.readouterr()
  flags = [f'--workdir={workdir}', '--prompt=to']
  generate.main(flags)
  (given, more) = asked[0]
  assert given[2:] == ([[3]], hf.sampling.Sampling(0.6, 0.95, 20))
  assert (more['end_ids'], more['start']) == ([2, 5], (1,))
  out, err = capsys.readouterr()
  assert out == 'to be\n'
  assert 'generation_config.json: repetition_penalty=1.05' in err
  generate.main([*flags, '--temperature=0.9'])
  assert asked[1][0][3] == hf.sampling.Sampling(0.9, 0.95, 20)


def test_a_folder_without_a_tokenizer_takes_ids_alone(tmp_path, capsys):
  workdir = tmp_path / 'work'
  convert.main(['import', str(hf.GOLDEN / 'olmoe'), f'--workdir={workdir}'])
  assert 'The folder has no tokenizer; prompts are' in capsys.readouterr().out
  call = [f'--workdir={workdir}', '--temperature=0', '--max_new_tokens=3']
  flags = [*call, '--prompt=to']
  assert exits.call(generate.main, flags) == exits.BAD_INPUT
  assert 'came without a tokenizer' in capsys.readouterr().err
  generate.main([*call, '--prompt_ids=5,8'])
  said = [int(word) for word in capsys.readouterr().out.split()]
  assert said[:2] == [5, 8]
  assert len(said) == 5


@pytest.mark.soak
def test_training_begins_with_the_folder_and_goes_out_again(tmp_path, capsys):
  path, workdir = tmp_path / 'olmoe', tmp_path / 'run'
  hf.write_olmoe(path)
  speak(path)
  (path / 'generation_config.json').write_text(json.dumps(GENERATION))
  (path / 'chat_template.jinja').write_text('{{ messages }}')
  before = tensors(path)
  spoken = {p.name: p.read_bytes() for p in path.iterdir()}
  # Its own vocabulary.
  more = {'data.vocab.name': 'hf_tokenizer'}
  config = hf.fine_tune(path, workdir, steps=2, **more)
  assert config.start == str(path)
  assert 'Beginning with the weights of' in capsys.readouterr().out
  # The folder is no longer needed, and the workdir may be moved.
  shutil.rmtree(path)
  workdir = workdir.rename(tmp_path / 'moved')
  convert.main(['export', f'--workdir={workdir}', f'--to={tmp_path / "out"}'])
  after = tensors(tmp_path / 'out')
  for name in (
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
  ):
    assert (tmp_path / 'out' / name).read_bytes() == spoken[name]
  out = tmp_path / 'out'
  assert json.loads((out / 'generation_config.json').read_text()) == GENERATION
  ids = json.loads((out / 'config.json').read_text())
  assert (ids['bos_token_id'], ids['eos_token_id']) == (1, 2)
  assert ids['pad_token_id'] is None
  assert before.keys() == after.keys()
  moved = {n: np.abs(after[n] - x).max() for n, x in before.items()}
  # Two steps of AdamW at 1e-3, and not from fresh weights.
  assert all(0 < far < 5e-3 for far in moved.values()), moved


class BegunError(Exception):
  pass


def test_training_begins_with_the_weights_of_a_workdir(
  tmp_path, capsys, monkeypatch
):
  path, start = tmp_path / 'olmoe', tmp_path / 'imported'
  hf.write_olmoe(path)
  speak(path)
  convert.main(['import', str(path), f'--workdir={start}'])

  def begun(_, state):
    raise BegunError(state)

  monkeypatch.setattr(loop, 'run', begun)
  capsys.readouterr()
  more = {'data.vocab.name': 'hf_tokenizer'}
  with pytest.raises(BegunError) as e:
    hf.fine_tune(start, tmp_path / 'run', steps=2, **more)
  (state,) = e.value.args
  assert int(state.step) == 0
  line = f'Beginning with the weights of {start}, step 0.'
  assert line in ' '.join(capsys.readouterr().out.split())
  wanted = trees.leaves(hf.read(path)[2])
  found = trees.leaves(state.weights)
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    assert np.asarray(found[name]).tobytes() == np.asarray(x).tobytes(), name
  with pytest.raises(errors.InputError, match='no checkpoint 5 in'):
    hf.fine_tune(
      path, tmp_path / 'x', steps=2, start=str(start), start_step='5'
    )
  kept = tmp_path / 'run' / companions.NAME / 'tokenizer.json'
  assert kept.read_bytes() == (path / 'tokenizer.json').read_bytes()
  more = {'start': str(start), 'model.num_layers': 3}
  with pytest.raises(errors.InputError) as e:
    hf.fine_tune(path, tmp_path / 'other', steps=2, **more)
  assert str(e.value) == f'start={start} has model.num_layers=2, not 3'


@pytest.mark.soak
def test_a_dense_model_gets_experts(tmp_path, capsys):
  workdir, target = tmp_path / 'dense', tmp_path / 'moe'
  convert.main(['import', str(hf.GOLDEN / 'llama'), f'--workdir={workdir}'])
  recipe = {
    'num_experts': 4,
    'expert_width': 8,
    'num_shared': 1,
    'router.k': 2,
    'router.renormalise': 'true',
  }
  convert.main([
    'upcycle',
    f'--workdir={workdir}',
    f'--to={target}',
    *(f'--config.model.moe.{key}={value}' for key, value in recipe.items()),
  ])
  assert '4 experts of width 8 and 1 shared' in capsys.readouterr().out
  run = restore.run_of(str(target))
  model = hf.build.build(run.model, hf.one_device())
  weights, step = restore.weights(model, str(target), print)
  assert step == 0
  _, _, dense = hf.read(hf.GOLDEN / 'llama')
  whole = dense['dense']['ffn']['w']['w_out_EFD']
  np.testing.assert_array_equal(
    weights['moe']['ffn']['shared']['w_out_EFD'][:, 0], whole[:, 0, :8]
  )
  np.testing.assert_array_equal(
    weights['moe']['ffn']['routed']['w_out_EFD'][:, 2], whole[:, 0, 8:]
  )


def calls(*words):
  return exits.call(convert.main, words)


def test_bad_input_is_one_line(there, tmp_path, capsys):
  workdir = tmp_path / 'work'
  convert.main(['import', str(there), f'--workdir={workdir}'])
  target = tmp_path / 'out'
  convert.main(['export', f'--workdir={workdir}', f'--to={target}'])
  small = tmp_path / 'small'
  shutil.copytree(there, small)
  more = {**TOKENIZER['model']['vocab'], 'long': 64}
  model = {**TOKENIZER['model'], 'vocab': more}
  text = json.dumps({**TOKENIZER, 'model': model})
  (small / 'tokenizer.json').write_text(text)
  broken = tmp_path / 'broken'
  broken.mkdir()
  files.atomic_write_json(broken / 'config.json', {'model_type': 'mixtral'})
  specs = {'a': (np.dtype(np.float32), (1,))}
  one = [('a', np.ones(1, np.float32))]
  tensor_files.write(broken / 'model.safetensors', specs, one)
  cases = [
    (['import', str(there), f'--workdir={workdir}'], 'of a run already'),
    (['export', f'--workdir={workdir}', f'--to={target}'], 'has weights'),
    (
      ['export', f'--workdir={workdir}', '--to=x', '--family=mixtral'],
      'cannot hold this model: it has model.moe.router.ren',
    ),
    (
      ['export', f'--workdir={workdir}', '--to=x', '--family=mixtrol'],
      "did you mean 'mixtral'?",
    ),
    (
      [
        'export',
        f'--workdir={workdir}',
        f'--to={broken}/config.json/x',
      ],
      "config.json/x' is a file, or lies below one",
    ),
    (
      ['export', f'--workdir={workdir}', '--to=x', '--dtype=int8'],
      "unknown dtype 'int8'",
    ),
    (['export', f'--workdir={tmp_path}', '--to=x'], 'not the workdir of a run'),
    (
      ['import', str(small), f'--workdir={tmp_path / "other"}'],
      'it is the tokenizer of another model',
    ),
    (['inspect', str(broken)], 'does not fit its config.json (a mixtral)'),
    (['what'], 'invalid choice'),
    (
      ['export', f'--workdir={workdir}', '--to=x', '--step=best'],
      '--step=best: no checkpoint has a validation loss; the steps in',
    ),
    (['inspect', str(there), '--config.a=b'], 'is for upcycle and join'),
    (
      ['upcycle', f'--workdir={workdir}', f'--to={tmp_path / "new"}'],
      'but this one has experts in 2 of 2 layers',
    ),
  ]
  capsys.readouterr()
  for words, message in cases:
    assert calls(*words) == exits.BAD_INPUT
    err = capsys.readouterr().err
    assert message in err
    assert err.count('\n') == 1
