"""Folders that cannot be used get one line that says what and why."""

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors
from etils import epath
from helpers import far, hf

from moejax.convert import companions, folder, load, save, tensor_files
from moejax.core import errors, trees
from moejax.data import vocab

ONE = 'model.layers.1.self_attn.q_proj.weight'


@pytest.fixture
def there(tmp_path):
  target = tmp_path / 'olmoe'
  # Without `memory`, a second checkpoint: a folder in a folder is a case below.
  ignored = shutil.ignore_patterns('memory')
  shutil.copytree(hf.GOLDEN / 'olmoe', target, ignore=ignored)
  return target


def rewrite(path, change):
  """The folder's tensors, changed as a dictionary."""
  file = path / folder.SINGLE
  tensors = {
    n: np.array(e.read()) for n, e in tensor_files.read_header(file).items()
  }
  change(tensors)
  specs = {name: (x.dtype, x.shape) for name, x in tensors.items()}
  tensor_files.write(file, specs, tensors.items())


def config(path, **changes):
  file = path / folder.CONFIG
  old = json.loads(file.read_text())
  file.write_text(json.dumps({**old, **changes}))


def index(path, places):
  text = json.dumps({folder.MAP: places})
  (path / folder.INDEX).write_text(text)


def names(path):
  return tensor_files.read_header(path / folder.SINGLE)


def cut(path):
  file = path / folder.SINGLE
  file.write_bytes(file.read_bytes()[:-100])


def pickled(path):
  (path / folder.SINGLE).rename(path / 'pytorch_model.bin')


def duplicate(path):
  (path / folder.SINGLE).rename(path / 'a.safetensors')
  shutil.copyfile(path / 'a.safetensors', path / 'b.safetensors')


def adapter(path):
  text = json.dumps({'base_model_name_or_path': 'owner/base'})
  (path / 'adapter_config.json').write_text(text)
  shutil.copyfile(path / folder.SINGLE, path / 'adapter_model.safetensors')


def adapter_alone(path):
  adapter(path)
  (path / folder.SINGLE).unlink()
  (path / folder.CONFIG).unlink()


def shards(path, count):
  """The tensors once more, in so many files; where each is."""
  tensors = {n: np.array(e.read()) for n, e in names(path).items()}
  places = {}
  for number in range(count):
    part = dict(list(tensors.items())[number::count])
    file = f'model-{number + 1:05d}-of-{count:05d}.safetensors'
    specs = {name: (x.dtype, x.shape) for name, x in part.items()}
    tensor_files.write(path / file, specs, part.items())
    places |= dict.fromkeys(part, file)
  return places


def whole_away(path):
  (path / folder.SINGLE).unlink()


def lacking_all_of_a_layer(path):
  rewrite(
    path,
    lambda x: [x.pop(n) for n in list(x) if n.startswith('model.layers.1.')],
  )


def header(path, text):
  data = len(text).to_bytes(8, 'little') + text.encode() + bytes(8)
  (path / folder.SINGLE).write_bytes(data)


CASES = {
  'missing': (
    lambda path: rewrite(path, lambda x: x.pop(ONE)),
    f'lacks {ONE} (1)',
  ),
  'many missing': (
    lacking_all_of_a_layer,
    'lacks model.layers.1.input_layernorm.weight, '
    'model.layers.1.mlp.experts.*.down_proj.weight, '
    'model.layers.1.mlp.experts.*.gate_proj.weight, ... (33)',
  ),
  'surplus': (
    lambda path: rewrite(
      path, lambda x: x.update(extra=np.zeros(2, np.float32))
    ),
    'has tensors that no such model has: extra (1)',
  ),
  'both': (
    lambda path: rewrite(path, lambda x: x.update(other=x.pop(ONE))),
    f'lacks {ONE} (1) and has tensors that no such model has: other (1)',
  ),
  'shape': (
    lambda path: rewrite(path, lambda x: x.update({ONE: x[ONE][:8]})),
    f'of other shapes than config.json says: {ONE} [8, 32], not [32, 32] (1)',
  ),
  'type': (
    lambda path: rewrite(
      path, lambda x: x.update({ONE: x[ONE].astype(np.int8)})
    ),
    f'{ONE} I8 (1); take the release',
  ),
  'quantised': (
    lambda path: rewrite(
      path, lambda x: x.update({ONE + '_scale_inv': np.ones(1, np.float32)})
    ),
    'is quantised',
  ),
  'cut short': (cut, 'is no whole safetensors file (Error while'),
  'empty': (
    lambda path: (path / folder.SINGLE).write_bytes(b''),
    'is no whole safetensors file (Error while',
  ),
  'no header': (
    lambda path: header(path, '{"a": 3}'),
    'is no whole safetensors file (Error while',
  ),
  'offsets': (
    lambda path: header(
      path,
      '{"a": {"dtype": "F32", "shape": [3], "data_offsets": [-4, 8]}}',
    ),
    'is no whole safetensors file (Error while',
  ),
  'pickle': (
    pickled,
    'has pickle files only: pytorch_model.bin (1); they can run any code',
  ),
  'nothing': (lambda path: (path / folder.SINGLE).unlink(), 'no *.safetensors'),
  'no config': (lambda path: (path / folder.CONFIG).unlink(), 'no config.json'),
  'config': (
    lambda path: (path / folder.CONFIG).write_text('{'),
    'config.json is not JSON',
  ),
  'unknown type': (
    lambda path: config(path, model_type='olmoo'),
    "unknown model_type of config.json 'olmoo'; did you mean 'olmoe'?",
  ),
  'no type': (lambda path: config(path, model_type=None), 'has no model_type'),
  'a key': (
    lambda path: config(path, clip_qkv=8.0),
    'has clip_qkv=8.0, but moejax has it with null alone',
  ),
  'no key': (
    lambda path: config(path, hidden_size=None),
    'config.json has hidden_size=null; give it a value',
  ),
  'a type of rope': (
    lambda path: config(path, rope_scaling={'rope_type': 'mrope'}),
    "unknown rope_type of config.json 'mrope'",
  ),
  'a value': (
    lambda path: config(path, vocab_size='many'),
    "config key 'vocab_size' wants an int, not 'many'",
  ),
  'index, absent file': (
    lambda path: index(path, {ONE: 'model-1.safetensors'}),
    'names files that are not there: model-1.safetensors (1)',
  ),
  'index, outside': (
    lambda path: index(path, {ONE: '../olmoe/model.safetensors'}),
    'names files that are not in its folder: ../olmoe/model.safetensors (1)',
  ),
  'index, absolute': (
    lambda path: index(path, {ONE: '/etc/passwd'}),
    'not in its folder: /etc/passwd (1)',
  ),
  'index, absent tensor': (
    lambda path: index(
      path, dict.fromkeys([*names(path), 'ghost'], folder.SINGLE)
    ),
    'lacks ghost (1), which its index',
  ),
  'another format': (
    lambda path: (path / folder.SINGLE).write_text('<!DOCTYPE html>' * 9),
    'is no whole safetensors file (Error while',
  ),
  'no index': (
    lambda path: (path / folder.INDEX).write_text('[]'),
    'must be a JSON object',
  ),
  'twice': (duplicate, 'b.safetensors; remove one'),
  'an adapter': (
    adapter_alone,
    "holds an adapter of 'owner/base' and no model: merge the two",
  ),
  'an adapter, with config': (
    lambda path: (adapter(path), (path / folder.SINGLE).unlink()),
    "holds an adapter of 'owner/base' and no model: merge the two",
  ),
  'an adapter of no name': (
    lambda path: (path / folder.SINGLE).rename(
      path / 'adapter_model.safetensors'
    ),
    'holds an adapter of some model and no model',
  ),
  'a file and an index': (
    lambda path: (shards(path, 2), index(path, shards(path, 2))),
    'holds two sets of weights, model.safetensors and the files of '
    'model.safetensors.index.json: remove the one that is not meant',
  ),
  'a file and its parts': (
    lambda path: shards(path, 2),
    'two sets of weights, model.safetensors and '
    'model-00001-of-00002.safetensors, model-00002-of-00002.safetensors (2)',
  ),
  'parts of two sets': (
    lambda path: (shards(path, 2), shards(path, 3), whole_away(path)),
    'two sets of weights, model-00001-of-00002.safetensors, '
    'model-00002-of-00002.safetensors (2) and model-00001-of-00003.safetensors',
  ),
  'a part that is missing': (
    lambda path: (
      shards(path, 3),
      whole_away(path),
      (path / 'model-00002-of-00003.safetensors').unlink(),
    ),
    'lacks model-00002-of-00003.safetensors (1); fetch',
  ),
  "the release's own format": (
    lambda path: (path / folder.SINGLE).rename(
      path / 'consolidated.safetensors'
    ),
    'has consolidated.safetensors (1) alone, weights in the format',
  ),
  'gguf': (
    lambda path: (path / folder.SINGLE).rename(path / 'm-Q4_K_M.gguf'),
    'has GGUF files only: m-Q4_K_M.gguf (1)',
  ),
  'a folder in it': (
    lambda path: (
      shutil.move(path, path.parent / 'x')
      and shutil.move(path.parent / 'x', path / 'checkpoint-500')
    ),
    'has no config.json, but folders in it have: ',
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_one_line(case, there):
  change, message = CASES[case]
  change(there)
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    load.plan(folder.open_folder(str(there)))
  assert '\n' not in str(e.value)


def test_no_folder():
  with pytest.raises(errors.InputError, match="no folder '/no/such'"):
    folder.open_folder('/no/such')


def test_what_is_not_of_the_model_proper_is_not_read(there):
  def more(tensors):
    tensors['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.ones(
      4, np.float32
    )

  rewrite(there, more)
  plan = load.plan(folder.open_folder(str(there)))
  assert plan.ignored == ['model.layers.0.self_attn.rotary_emb.inv_freq']


def test_several_files_with_and_without_index(there):
  whole = hf.read(there)[2]
  places = shards(there, 2)
  whole_away(there)
  for step in (lambda: None, lambda: index(there, places)):
    step()
    found = hf.read(there)[2]
    hf.jax.tree.map(np.testing.assert_array_equal, found, whole)


def beside(path):
  """What hubs and trainers leave beside weights."""
  adapter(path)
  for name in ('pytorch_model.bin', 'optimizer.pt', 'training_args.bin'):
    (path / name).write_bytes(b'')


def test_what_is_there_and_not_used_is_named(there):
  assert load.remarks(load.plan(folder.open_folder(str(there)))) == []
  beside(there)
  (there / 'consolidated.safetensors').write_bytes(b'')
  rewrite(
    there,
    lambda x: x.update({
      f'model.layers.{i}.self_attn.rotary_emb.inv_freq': np.ones(4, np.float32)
      for i in (0, 1)
    }),
  )
  assert load.remarks(load.plan(folder.open_folder(str(there)))) == [
    'Files beside the weights are not used: adapter_model.safetensors, '
    'consolidated.safetensors, pytorch_model.bin (3).',
    'Not read: model.layers.*.self_attn.rotary_emb.inv_freq (2).',
  ]


def test_an_index_of_the_one_file_is_no_second_answer(there):
  index(there, dict.fromkeys(names(there), folder.SINGLE))
  assert len(folder.open_folder(str(there)).tensors) == 69


def test_names_are_listed_shortly():
  experts = [f'layers.{i}.experts.{e}.w.weight' for i in (3, 5) for e in (0, 1)]
  assert folder.shortly(experts) == 'layers.*.experts.*.w.weight (4)'
  assert folder.shortly(experts[:2]) == 'layers.3.experts.*.w.weight (2)'
  assert folder.shortly(experts[:1]) == 'layers.3.experts.0.w.weight (1)'
  assert folder.shortly('abcd') == 'a, b, c, ... (4)'


@pytest.mark.parametrize(
  'x',
  [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(6).astype(ml_dtypes.bfloat16).reshape(3, 2).T,
    np.zeros((0, 3), np.float16),
    np.array(2.5, np.float64),
  ],
)
def test_a_tensor_is_read_as_it_was_written(x, tmp_path):
  """Here, and by the library of the format."""
  file = tmp_path / 'x.safetensors'
  first = np.ones(3, np.int8)
  specs = {'b': (first.dtype, first.shape), 'x': (x.dtype, x.shape)}
  tensor_files.write(file, specs, [('b', first), ('x', x)])
  found = tensor_files.read_header(file)['x'].read()
  assert found.dtype == x.dtype
  np.testing.assert_array_equal(found, x)
  with safetensors.safe_open(file, framework='np') as theirs:
    assert theirs.metadata() == {'format': 'pt'}
    assert theirs.get_tensor('x').dtype == x.dtype
    np.testing.assert_array_equal(theirs.get_tensor('x'), x)
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']


def test_tokenizers_come_from_an_object_store_too(tmp_path, monkeypatch):
  far.store(monkeypatch, tmp_path / 'gs')
  there = tmp_path / 'gs' / 'bucket' / 'run' / companions.NAME
  there.mkdir(parents=True)
  (there / 'tokenizer.json').write_bytes(b'words')
  (there / 'config.json').write_text('{"eos_token_id": 7}')
  source = epath.Path(f'gs://bucket/run/{companions.NAME}')
  plan, model, weights = hf.read(hf.GOLDEN / 'olmoe')
  leaves = trees.leaves(weights)
  out = tmp_path / 'out'
  save.write(
    save.plan(plan.config, model.shapes),
    leaves.get,
    out,
    beside=companions.of_folder(source, vocab.Bytes()),
  )
  assert (out / 'tokenizer.json').read_bytes() == b'words'
  assert json.loads((out / 'config.json').read_text())['eos_token_id'] == 7
  # And to one, from here.
  target = epath.Path('gs://bucket/other/hf')
  companions.keep(
    {'tokenizer.json': epath.Path(out / 'tokenizer.json')}, target
  )
  companions.check(target)
  there = tmp_path / 'gs' / 'bucket' / 'other' / 'hf'
  assert (there / 'tokenizer.json').read_bytes() == b'words'
