"""The command trace: from a workdir or an imported model to Parquet files."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from helpers import hf, programs, tiny, traces

from moejax.analysis import trace_file
from moejax.analysis.trace_folder import TraceFolder
from moejax.cli import convert, trace
from moejax.config import Run
from moejax.core import config_tree, exits, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes
from moejax.run import restore, trace_files, tracing, trained
from moejax.train import checkpoint

MODEL = ModelConfig(
  vocab_size=259,
  max_length=64,
  num_layers=2,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8),
)


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  """Every command compiles its programs anew, the same ones in many tests."""
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A workdir with checkpoints of steps 10 and 20, the first one kept."""
  folder = tmp_path_factory.mktemp('run')
  data = DataConfig(
    mixture='synthetic',
    vocab=Bytes(),
    sequence_length=16,
    cache_dir=str(tmp_path_factory.mktemp('cache')),
  )
  run = Run(model=MODEL, data=data)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  for step, place in ((10, 'kept'), (20, 'checkpoints')):
    with checkpoint.Checkpointer(folder / place) as checkpoints:
      weights = tiny.draw(model.shapes, seed=step)
      extra = {'tokens': {'synthetic': step * 100}}
      checkpoints.save(step, {'weights': weights}, extra)
  return folder


@pytest.fixture
def workdir(made, tmp_path):
  """A copy of that workdir, to write in."""
  return shutil.copytree(made, tmp_path / 'run')


def call(capsys, workdir, *flags):
  """Output, notes and the exit code of the command."""
  code = exits.call(trace.main, [f'--workdir={workdir}', *flags])
  out, noted = capsys.readouterr()
  return out, noted, code


def test_every_checkpoint_becomes_a_file_and_is_kept(workdir, capsys):
  flags = ['--checkpoints=all', '--tokens=100']
  out, noted, code = call(capsys, workdir, *flags)
  assert code == exits.DONE
  paths = [workdir / 'traces' / f'{step:08d}.parquet' for step in (10, 20)]
  assert out.split() == [str(path) for path in paths]
  assert 'Tracing step 10 (about 112 tokens)' in noted  # seven rows
  folder = TraceFolder(workdir / 'traces', several=True)
  assert [t.step for t in folder] == [10, 20]
  assert [t.tokens_seen for t in folder] == [1000, 2000]
  for one in folder:
    assert one.layers == (1,)
    assert one.domains == ('synthetic',)
    assert len(one.token_T) == 112
  assert (folder[0].token_T == folder[1].token_T).all()
  assert (folder[0].expert_TNK != folder[1].expert_TNK).any()
  # A missing one is made; the other is not touched.
  paths[0].unlink()
  before = paths[1].stat().st_mtime_ns
  _, noted, code = call(capsys, workdir, *flags)
  assert code == exits.DONE
  assert f'{paths[1]} is there already' in noted
  assert 'Tracing step 20' not in noted
  assert paths[0].exists()
  assert paths[1].stat().st_mtime_ns == before


def test_a_file_of_another_request_is_refused_before_any_is_made(
  workdir, capsys, tmp_path
):
  *_, code = call(capsys, workdir, '--tokens=16')
  assert code == exits.DONE
  for flags, difference in (
    (['--tokens=32'], 'another text'),
    (['--tokens=16', '--logits'], 'another logits (False there, True now)'),
    (['--tokens=16', '--config.model.moe.router.scale=2'], 'another model'),
  ):
    _, noted, code = call(capsys, workdir, '--checkpoints=all', *flags)
    assert code == exits.BAD_INPUT
    assert f'00000020.parquet is a trace of {difference}' in noted
    assert 'remove it, or write to another folder with --out' in noted
    names = [path.name for path in (workdir / 'traces').iterdir()]
    assert names == ['00000020.parquet']
  # How it is computed makes no other trace.
  more = ['--tokens=16', '--config.mesh.fsdp=2']
  out = tmp_path / 'other'
  _, _, code = call(capsys, workdir, *more, f'--out={out}')
  assert code == exits.DONE
  one, two = (TraceFolder(place) for place in (workdir / 'traces', out))
  assert one.header == two.header
  np.testing.assert_array_equal(one[0].expert_TNK, two[0].expert_TNK)


def test_files_are_domains_and_all_their_documents_are_traced(
  workdir, capsys, tmp_path
):
  texts = tmp_path / 'texts'
  (texts / 'b').mkdir(parents=True)
  (texts / 'one.txt').write_text('To be')
  (texts / 'two.jsonl').write_text(
    '{"text": "or"}\n{"text": "not to be, or"}\n'
  )
  (texts / 'b' / 'one.txt').write_text('that')
  _, _, code = call(capsys, workdir, f'--files={texts}')
  assert code == exits.DONE
  (got,) = TraceFolder(workdir / 'traces')
  assert set(got.domains) == {
    'two.jsonl',
    str(texts / 'one.txt'),
    str(texts / 'b' / 'one.txt'),
  }
  two = got.of_domain('two.jsonl')
  # 2 letters and the end; 13 letters are cut where the first row of 16 ends.
  assert np.unique(two.document_T).size == 2
  assert len(two.token_T) == 3 + 14
  assert two.position_T.tolist() == [0, 1, 2, *range(13), 0]
  read = [i for i, p in zip(two.token_T, two.position_T, strict=True) if p]
  assert Bytes().decode(read[:2]) == 'or'


def test_a_mixture_gives_its_validation_sets(workdir, capsys, tmp_path):
  flags = ['--tokens=20', f'--out={tmp_path / "out"}']
  _, _, code = call(capsys, workdir, '--mixture=minipile', *flags)
  assert code == exits.DONE
  (got,) = TraceFolder(tmp_path / 'out')
  assert got.domains == (
    'code',
    'dictionary',
    'factbook',
    'scripture',
    'speeches',
  )
  task = ['--mixture=minipile_code', '--tokens=20', f'--out={tmp_path / "one"}']
  _, _, code = call(capsys, workdir, *task)
  assert code == exits.DONE
  (one,) = TraceFolder(tmp_path / 'one')
  assert one.domains == ('code',)
  traces.assert_same(
    one.only(np.arange(16)),
    dataclasses.replace(got.of_domain('code'), domains=('code',)),
  )


def test_bad_flags_are_one_line(workdir, capsys):
  for flags, message in (
    (['--checkpoints=15'], "'15' is not the step of a checkpoint"),
    (['--mixture=minipil'], "did you mean 'minipile'"),
    (['--files=a.txt', '--mixture=c4'], 'are two texts: give one'),
    (['--files=/nowhere/a.txt'], '--files'),
    (['--out=gs://bucket/a'], 'written to a folder of this machine'),
    (['--config.opt.peak_lr=1'], 'does not change what a trained model'),
    (['--tokens=-1'], '--tokens=-1 must be 0 or more'),
  ):
    _, noted, code = call(capsys, workdir, *flags)
    assert code == exits.BAD_INPUT, flags
    assert message in noted
    assert noted.strip().count('\n') == 0
  assert not list((workdir / 'traces').iterdir())


@pytest.mark.soak
def test_an_imported_model_routes_as_transformers_does(tmp_path, capsys):
  folder, workdir = hf.GOLDEN / 'olmoe', tmp_path / 'olmoe'
  assert not exits.call(
    convert.main, ['import', str(folder), f'--workdir={workdir}']
  )
  capsys.readouterr()
  want = np.load(folder / 'expected.npz')
  opened = trained.open_trained(str(workdir))
  weights, _ = opened.weights('newest', print)
  token_BL, expert_NBLK = want['token_BL'], want['experts_NBLK']
  for row, token_L in enumerate(token_BL):
    # The row whose tokens, as the model reads them, are these.
    reader = traces.Rows(
      np.roll(token_L, -1)[None],
      np.ones_like(token_L)[None],
      first_id=token_L[0],
    )
    (got,) = tracing.trace(opened.model, weights, traces.text({'text': reader}))
    np.testing.assert_array_equal(got.token_T, token_L)
    np.testing.assert_array_equal(
      np.sort(got.expert_TNK, axis=-1), np.moveaxis(expert_NBLK[:, row], 0, 1)
    )


@pytest.mark.soak
def test_a_workdir_of_an_imported_model_is_traced(tmp_path, capsys):
  folder, workdir = tmp_path / 'olmoe', tmp_path / 'work'
  hf.write_olmoe(folder)
  assert not exits.call(
    convert.main, ['import', str(folder), f'--workdir={workdir}']
  )
  text = tmp_path / 'a.txt'
  text.write_text('To be, or not to be')
  bytes_of = [
    '--config.data.vocab.name=bytes',
    f'--config.data.cache_dir={tmp_path}',
  ]
  out, _, code = call(capsys, workdir, f'--files={text}', *bytes_of)
  assert code == exits.DONE
  header = trace_file.TraceFile(out.split()[-1]).header
  assert (header.step, header.tokens_seen) == (0, 0)
  (got,) = TraceFolder(workdir / 'traces')
  config = restore.run_of(str(workdir)).model
  assert got.layers == (0, 1)
  assert got.k == config.moe.router.k
  assert got.num_experts == config.moe.num_experts
  assert header.router['router.k'] == config.moe.router.k
  assert Bytes().decode(got.token_T[1:]) == text.read_text()


def test_the_fingerprint_changes_with_what_changes_the_weights(workdir):
  run = restore.run_of(str(workdir))
  model = trained.open_trained(str(workdir)).model
  same = lambda run, extra: trace_files.fingerprint(run, model, extra)
  base = same(run, {})
  assert same(dataclasses.replace(run, seed=1), {}) != base
  assert same(run, {'source': 'another'}) != base
  opt = dataclasses.replace(run.opt, peak_lr=run.opt.peak_lr * 2)
  assert same(dataclasses.replace(run, opt=opt), {}) != base
  report = dataclasses.replace(run.report, samples=False)
  assert same(dataclasses.replace(run, report=report), {}) == base
