"""The generate command shows the experts of tokens."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import hf, programs, tiny

from moejax.cli import convert, generate
from moejax.config import Run
from moejax.core import config_tree, exits, files, trees
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.evals import likelihood
from moejax.evals.encoding import Scored
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers.top_k import TopK
from moejax.moe.scorers.token_embedding import TokenEmbedding
from moejax.run import playground
from moejax.train import checkpoint

# By its scorer, the experts of a token are a function of its id alone. Layers
# 1, 2 and 3 have experts.
MODEL = ModelConfig(
  vocab_size=259,
  max_length=40,
  num_layers=4,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(
    num_experts=8,
    expert_width=8,
    router=TopK(k=2),
    scorer=TokenEmbedding(vocab_size=259, dim=4),
  ),
)
PROMPT = 'In the'
FLAGS = ('--temperature=0', '--max_new_tokens=5')


def save(folder, model_config):
  """A workdir with drawn weights; the model and its weights."""
  run = Run(
    model=model_config,
    data=DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=40),
  )
  model = build.build(run.model, tiny.mesh())
  weights = tiny.draw(model.shapes, std=0.5)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    checkpoints.save(7, {'weights': weights}, {})
  return model, weights


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield folder, *save(folder, MODEL)


def call(capsys, folder, *flags, prompts=(PROMPT,)):
  """The output of the command."""
  prompts = [f'--prompt={prompt}' for prompt in prompts]
  generate.main([f'--workdir={folder}', *prompts, *FLAGS, *flags])
  return capsys.readouterr().out


def experts_by_hand(weights, ids):
  """expert_NTK of each layer, from its tables alone."""
  leaves = trees.leaves(weights)
  (v_NVZ,) = (x for path, x in leaves.items() if path.endswith('v_VZ'))
  (w_NEZ,) = (x for path, x in leaves.items() if path.endswith('w_EZ'))
  logits_NTE = np.einsum('NTZ,NEZ->NTE', v_NVZ[:, ids], w_NEZ)
  return np.argsort(-logits_NTE, axis=-1)[..., :2]


@pytest.mark.soak
def test_the_experts_are_those_of_the_whole_text(trained, capsys):
  folder, model, weights = trained
  result = json.loads(call(capsys, folder, '--show-routing=all', '--json'))
  assert (result['workdir'], result['step']) == (str(folder), 7)
  (text,) = result['texts']
  ids = [token['id'] for token in text['tokens']]
  # The start token, the prompt, and what was written but for an end token.
  assert ids[: len(PROMPT) + 1] == [0, *Bytes().encode(PROMPT)]
  own = text['models']['unchanged']
  assert own['text'] == Bytes().decode(ids)
  assert ''.join(token['text'] for token in text['tokens']) == own['text']
  assert [*own['layers']] == ['1', '2', '3']
  want_NTK = experts_by_hand(weights, ids)
  for layer, want_TK in zip(own['layers'].values(), want_NTK, strict=True):
    assert layer['experts'] == want_TK.tolist()
    weight_TK = np.array(layer['weights'])
    assert np.all(weight_TK[:, 0] >= weight_TK[:, 1])
    assert not np.any(layer['dropped'])


@pytest.mark.soak
def test_one_rank_as_data(trained, capsys):
  folder, *_ = trained
  both, second = (
    json.loads(call(capsys, folder, f'--show-routing={shown}', '--json'))
    for shown in ('2', '2,2')
  )
  experts = [
    result['texts'][0]['models']['unchanged']['layers']['2']['experts']
    for result in (both, second)
  ]
  assert [[pair[1]] for pair in experts[0]] == experts[1]


@pytest.mark.soak
def test_the_losses_are_those_of_scoring(trained, capsys):
  folder, model, weights = trained
  result = json.loads(call(capsys, folder, '--show-routing', '--json'))
  (text,) = result['texts']
  ids = [token['id'] for token in text['tokens']]
  nats = text['models']['unchanged']['nats']
  assert nats[0] is None
  request = Scored(tuple(ids[:-1]), tuple(ids[1:]))
  scored = likelihood.log_probs(
    model, jax.device_put(weights, model.shardings), [request]
  )
  np.testing.assert_allclose(nats[1:], -scored[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_the_text_is_that_without_the_flag(trained, capsys):
  folder, *_ = trained
  plain = call(capsys, folder)
  shown = call(capsys, folder, '--show-routing=2')
  assert shown.startswith(plain)
  lines = shown.removeprefix(plain).splitlines()
  assert lines[0].split() == ['token', 'nats', 'layer', '2']
  assert lines[2].startswith("'I'")


@pytest.mark.soak
def test_a_changed_model_stands_beside(trained, capsys):
  folder, _, weights = trained
  flags = '--show-routing=all', '--json', '--intervene=forbid=3'
  (text,) = json.loads(call(capsys, folder, *flags))['texts']
  own, changed = (text['models'][name] for name in ('unchanged', 'forbid=3'))
  # The unchanged model is as it is alone.
  ids = [token['id'] for token in text['tokens']]
  want_NTK = experts_by_hand(weights, ids).tolist()
  assert [x['experts'] for x in own['layers'].values()] == want_NTK
  assert any(3 in experts for experts in want_NTK[0])
  for layer in changed['layers'].values():
    assert not any(3 in experts for experts in layer['experts'])
  assert changed['nats'] != own['nats']


@pytest.mark.soak
def test_texts_of_both_models_are_printed(trained, capsys):
  folder, *_ = trained
  plain = call(capsys, folder)
  shown = call(capsys, folder, '--show-routing=1', '--intervene=forbid=3')
  begin, _, rest = shown.partition('--- forbid=3\n')
  assert begin == f'--- unchanged\n{plain}'
  assert 'tokens with other experts under forbid=3: layer 1' in rest


@pytest.mark.soak
def test_each_of_several_texts_has_its_routing(trained, capsys):
  folder, *_ = trained
  shown = call(capsys, folder, '--show-routing=1,1', prompts=('a', 'In'))
  assert shown.count('layer 1') == 2
  assert '--- routing of 1\n' in shown
  assert '--- routing of 2\n' in shown


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--show-routing=0'], 'layer 0 has no experts; layers with experts: 1, 2'),
    (['--show-routing=4'], '--show-routing=4: layer 4 has no experts'),
    (['--show-routing=3-2'], 'layers from 3 to 2 are none; give 2-3'),
    (['--show-routing=2-9'], 'layer 9 has no experts'),
    (['--show-routing=1,9'], 'rank 9 must be from 1 to 2'),
    (['--show-routing=1,0'], 'rank 0 must be from 1 to 2'),
    (['--show-routing=x'], '--show-routing=x is not LAYERS[,RANK]'),
    (['--show-routing='], '--show-routing= is empty'),
    (['--intervene=force=1'], '--intervene needs --show-routing'),
    (['--show-routing', '--intervene=mask'], 'mask'),
    (['--show-routing', '--intervene=mask_top=2'], 'mask_top=2'),
    (['--show-routing', '--intervene=force=8'], 'force=8'),
  ],
)
def test_bad_input_is_one_line(trained, flags, message, capsys):
  call = [f'--workdir={trained[0]}', f'--prompt={PROMPT}', *flags]
  assert exits.call(generate.main, call) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert message in err.splitlines()[-1]
  assert not out


def test_a_dense_model_has_no_routing(tmp_path, capsys):
  save(tmp_path, dataclasses.replace(MODEL, first_dense=4))
  call = [f'--workdir={tmp_path}', f'--prompt={PROMPT}', '--show-routing']
  assert exits.call(generate.main, call) == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.splitlines()
  assert 'has no layer with routed experts' in line
  assert '--show-routing' in line


@pytest.mark.parametrize(
  ('ids', 'ends', 'most', 'want'),
  [
    ([0, 5, 6], [1], 9, [0, 5, 6]),
    # An end token is not read, and neither is a token without a position.
    ([0, 5, 1], [1], 9, [0, 5]),
    ([0, 5, 6], [1], 2, [0, 5]),
  ],
)
def test_a_text_is_read_as_far_as_the_model_reads(ids, ends, most, want):
  assert playground._read_ids(ids, ends, most) == want


@pytest.mark.parametrize(
  ('text', 'layers', 'rank'),
  [
    ('some', (0, 1, 2), None),
    ('all', (0, 1, 2), None),
    ('2', (1,), None),
    ('2-3', (1, 2), None),
    ('3,2', (2,), 1),
    ('all,1', (0, 1, 2), 0),
  ],
)
def test_layers_and_ranks_are_numbered_as_people_do(text, layers, rank):
  model = build.build(MODEL, tiny.mesh())
  shown = playground.parse_shown(text, model, 'runs/x')
  assert (shown.layers, shown.rank) == (layers, rank)


@pytest.mark.soak
def test_an_imported_model_shows_its_routing(tmp_path, capsys):
  workdir = tmp_path / 'olmoe'
  convert.main(['import', str(hf.GOLDEN / 'olmoe'), f'--workdir={workdir}'])
  capsys.readouterr()
  generate.main([
    f'--workdir={workdir}',
    '--prompt_ids=5,6,7',
    '--temperature=0',
    '--max_new_tokens=3',
    '--show-routing=all',
    '--json',
  ])
  (text,) = json.loads(capsys.readouterr().out)['texts']
  assert [token['id'] for token in text['tokens']][:3] == [5, 6, 7]
  layers = text['models']['unchanged']['layers'].values()
  ids = [token['id'] for token in text['tokens']]
  _, model, weights = hf.read(hf.GOLDEN / 'olmoe')
  want_NBLK = hf.chosen(model, weights, np.array([ids]))
  for layer, want_BLK in zip(layers, np.asarray(want_NBLK), strict=True):
    assert [sorted(experts) for experts in layer['experts']] == (
      want_BLK[0].tolist()
    )
