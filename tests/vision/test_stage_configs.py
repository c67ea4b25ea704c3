"""The configs of stages: what each trains, and that each fits the next."""

import pathlib

import jax
import pytest
from helpers import seeing, tiny, workdirs

from moejax.config import stages
from moejax.convert import upcycle
from moejax.core import errors
from moejax.data.scenes import drawing, questions, sets
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.train import parts
from moejax.vision import projector

FOLDER = pathlib.Path(__file__).parents[2] / 'configs' / 'vision'


def load(spec, workdir='none'):
  return {
    stage.name: stages.load(spec, stage, [], workdir)
    for stage in stages.read(spec)
  }


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp('drawn') / 'scenes'
  sets.write(folder, train=5, held=5, seed=0)
  return load(f'{FOLDER / "drawn.py"}:{folder}')


@pytest.fixture(scope='module')
def libmoe(tmp_path_factory):
  """With the tiny model of a workdir in place of the paper's."""
  folder = tmp_path_factory.mktemp('libmoe') / 'joined'
  model = tiny.model_config(
    num_layers=2, first_dense=0, vision=seeing.SIGHT, vocab_size=260
  )
  run = workdirs.make(folder, model)
  return load(f'{FOLDER / "libmoe_stages.py"}:{run}')


def test_a_model_of_text_has_no_stages_of_images(tmp_path):
  model = tiny.model_config(num_layers=1, first_dense=0, vocab_size=260)
  run = workdirs.make(tmp_path / 'text', model)
  with pytest.raises(errors.InputError, match='reads text alone: join it with'):
    load(f'{FOLDER / "libmoe_stages.py"}:{run}')


def structure(run):
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  return build.build(run.model, mesh)


def trained(run):
  """The paths of the weights that a run trains."""
  factors = parts.factors(run.opt.parts, structure(run).decays)
  return {path for path, factor in factors.items() if factor}


@pytest.mark.parametrize('name', ['drawn', 'libmoe'])
def test_the_connector_alone_is_trained_first_and_then_everything(
  name, request
):
  runs = request.getfixturevalue(name)
  all_paths = {*structure(runs['connector']).decays}
  connector = {p for p in all_paths if p.startswith('vision/projector/')}
  assert len(connector) == 4  # two matrices with biases
  assert trained(runs['connector']) == connector
  assert trained(runs['everything']) == all_paths
  experts = {*structure(runs['experts']).decays}
  assert trained(runs['experts']) == experts


@pytest.mark.parametrize('name', ['drawn', 'libmoe'])
def test_stages_have_one_model_but_for_the_experts(name, request):
  runs = request.getfixturevalue(name)
  assert runs['connector'].model == runs['everything'].model
  dense, sparse = runs['everything'].model, runs['experts'].model
  assert dense.vision.mixtures == {}
  assert [*sparse.vision.mixtures] == ['encoder', 'projector']
  for mixture in sparse.vision.mixtures.values():
    assert (mixture.num_experts, mixture.router.k) == (6, 3)
    first_choice, z_loss = mixture.balance
    assert (first_choice.alpha, z_loss.coefficient) == (0.01, 0.001)
  weights = tiny.draw(structure(runs['everything']).shapes)
  new = upcycle.upcycle(dense, sparse, weights)  # refuses what does not fit
  shape = new['vision']['encoder']['layers']['ffn']['routed']['w_in_EDF'].shape
  encoder = sparse.vision.encoder
  assert shape[1:] == (6, encoder.width, encoder.hidden_width)


def test_the_drawn_stages_fit_the_scenes_and_each_other(drawn):
  blind, sight, seeing_run = (
    drawn[name] for name in ('text', 'sight', 'connector')
  )
  encoder = seeing_run.model.vision.encoder
  assert encoder.image_size == drawing.SIDE
  assert encoder.patch_size == drawing.CELL
  assert blind.model.vocab_size == sets.PIECES
  assert sight.model.vision.encoder == encoder
  assert sight.model.vision.layers == seeing_run.model.vision.layers
  # The model that does not see: the same decoder, and the same questions.
  decoder = {*structure(blind).decays}
  assert decoder == {
    path for path in structure(seeing_run).decays if path[:7] != 'vision/'
  }
  domains = {source.name for source in blind.data.sources}
  assert {*questions.KINDS} < domains
  assert {s.name for s in seeing_run.data.sources} == {*questions.KINDS}


def test_libmoes_rates_and_batches(libmoe):
  """Facts of the paper's appendix: batches on 4 GPUs; 665K / 32 = 20,791."""
  found = {
    name: (run.opt.peak_lr, run.train.batch_size)
    for name, run in libmoe.items()
  }
  assert found == {
    'connector': (1e-3, 64 * 4),
    'everything': (2e-6, 6 * 4),
    'experts': (4e-6, 4 * 2 * 4),
  }
  assert libmoe['experts'].train.steps == 20_791
  assert isinstance(libmoe['everything'].model.vision.projector, projector.MLP)
