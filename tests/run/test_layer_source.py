"""Weights on disk that are read by layer, and a run that is calibrated so."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import hf, saved, tiny

from moejax.compress.statistics import ExpertStatistics
from moejax.config import Run
from moejax.core import errors
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import layerwise
from moejax.moe.routers.top_k import TopK
from moejax.run import calibrating, layer_source, new_workdir
from moejax.run.calibrating import Calibration
from moejax.run.layer_source import LayerSource

MODEL = tiny.model_config(
  moe={'router': TopK(k=2)}, vocab_size=8192, max_length=16
)


@pytest.fixture(scope='module')
def weights():
  return tiny.weights(tiny.model(MODEL))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, weights):
  """The workdir of a model that was not trained."""
  run = Run(model=MODEL, data=DataConfig(sequence_length=16, vocab=Bytes()))
  path = new_workdir.make(str(tmp_path_factory.mktemp('runs') / 'run'))
  new_workdir.save(path, weights, {}, lambda _: None)
  new_workdir.finish(path, run)
  return str(path)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A pattern for two files of three documents each."""
  folder = tmp_path_factory.mktemp('text')
  for name in ('cats', 'dogs'):
    texts = [f'a text on {name}, number {n}. ' * n for n in (1, 2, 3)]
    lines = [json.dumps({'text': text}) + '\n' for text in texts]
    (folder / f'{name}.jsonl').write_text(''.join(lines))
  return f'{folder}/*.jsonl'


def assert_layers(source, weights):
  """Each layer of a source is that of the whole weights, to the bit."""
  order = layerwise.places(source.model.config)
  assert len(order) == source.model.config.num_layers
  for place in order:
    own = jax.tree.map(lambda x, n=place.index: x[n], weights[place.kind])
    saved.assert_same_bits(source.layer(place.kind, place.index), own)
  saved.assert_same_bits(source.embedding(), weights['embed_VD'])


# Experts of one tensor each and of one for all; layers that differ in kind.
@pytest.mark.parametrize('family', ['deepseek_v3', 'gpt_oss', 'granitemoe'])
def test_layers_of_a_folder_are_those_of_the_whole_model(family):
  plan, model, weights = hf.read(hf.GOLDEN / family)
  source = LayerSource(model, layer_source.of_folder(plan, model))
  assert_layers(source, weights)


def test_layers_of_a_workdir_are_those_of_its_weights(workdir, weights):
  model = tiny.model(MODEL)
  with layer_source.of_workdir(workdir, model) as (read, step):
    assert step == 0
    assert_layers(LayerSource(model, read), weights)


@pytest.mark.soak
def test_a_run_is_calibrated_whole_and_by_layer(workdir, files, tmp_path):
  calibration = Calibration(files=files, documents=2)
  whole = calibrating.calibrate_run(workdir, calibration)
  by_layer = calibrating.calibrate_run(
    workdir, dataclasses.replace(calibration, by_layer=True)
  )
  assert [*whole] == [*by_layer] == ['cats.jsonl', 'dogs.jsonl']
  for name, statistics in whole.items():
    assert statistics.count_NE.sum() == 2 * 2 * statistics.tokens
    other = by_layer[name]
    np.testing.assert_array_equal(statistics.count_NE, other.count_NE)
    tiny.assert_close(statistics.easy_ep_NE, other.easy_ep_NE, rtol=1e-4)
    assert statistics.checkpoint == other.checkpoint
    path = tmp_path / f'{name}.npz'
    statistics.save(path)
    read = ExpertStatistics.load(
      path, statistics.checkpoint, Bytes().fingerprint()
    )
    np.testing.assert_array_equal(read.gate_NE, statistics.gate_NE)
  every = calibrating.calibrate_run(
    workdir, Calibration(files=files, documents=0)
  )
  assert every['cats.jsonl'].tokens > whole['cats.jsonl'].tokens


def test_another_tokenizer_than_that_of_the_run_is_refused(workdir, files):
  overrides = [('data.vocab', 'sentencepiece')]
  with pytest.raises(errors.InputError, match='packed with the tokenizer'):
    calibrating.calibrate_run(workdir, Calibration(files=files), overrides)


def test_a_folder_without_a_tokenizer_is_refused(files):
  with pytest.raises(errors.InputError, match='no text can be read with it'):
    calibrating.calibrate_folder(
      str(hf.GOLDEN / 'olmoe'), Calibration(files=files)
    )
