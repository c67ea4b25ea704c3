"""A workdir that reads images is written as the LLaVA that it came from."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import hf_process
from helpers import llava as helper

from moejax.cli import convert
from moejax.convert import folder, llava, llava_export, processors, whole
from moejax.core import errors, trees
from moejax.data.images import Images
from moejax.data.vocab import Bytes
from moejax.run import restore
from moejax.vision import projector

NAMES = ['clip', pytest.param('granite', marks=pytest.mark.soak)]


@pytest.fixture(scope='module', params=NAMES)
def exported(request, tmp_path_factory):
  """A folder, its workdir, and what that is written as."""
  path = tmp_path_factory.mktemp(request.param)
  source = helper.speaking(path / 'hf', request.param, template='{{ 1 }}')
  if request.param == 'granite':
    config = json.loads((source / 'config.json').read_text())
    config['vision_feature_select_strategy'] = 'full'
    config = json.dumps(config)
    (source / 'config.json').write_text(config)
  convert.main(['import', str(source), f'--workdir={path / "run"}'])
  flags = [f'--workdir={path / "run"}', f'--to={path / "out"}']
  convert.main(['export', *flags])
  return source, path / 'run', path / 'out'


def test_it_is_the_model_that_was_imported(exported):
  source, _, out = exported
  before, after = (
    llava.plan(folder.open_folder(str(x))) for x in (source, out)
  )
  for name in (
    'activation', 'layers', 'left_out', 'image_token', 'num_features',
  ):  # fmt: skip
    assert getattr(before, name) == getattr(after, name), name
  assert before.encoder.config == after.encoder.config
  assert before.decoder.config == after.decoder.config
  _, _, wanted = helper.read(source)
  _, _, found = helper.read(out)
  found = trees.leaves(found)
  for path, w in trees.leaves(wanted).items():
    np.testing.assert_allclose(found[path], w, 1e-6, 1e-7, err_msg=path)


def test_its_companions_are_there(exported):
  source, _, out = exported
  assert processors.read(out) == processors.read(source)
  for name in ('tokenizer.json', 'chat_template.jinja'):
    assert (out / name).read_bytes() == (source / name).read_bytes()
  joint = json.loads((out / 'processor_config.json').read_text())
  assert joint['processor_class'] == 'LlavaProcessor'
  assert joint['patch_size'] == 8


def test_what_a_llava_cannot_hold_is_one_line(exported):
  _, workdir, _ = exported
  run = restore.run_of(str(workdir))
  model, images, vocab = run.model, run.data.images, run.data.vocab
  shapes = whole.load.shapes(model)

  def written(vision=None, images=images, vocab=vocab, **changes):
    own = dataclasses.replace(model, **changes)
    if vision:
      own = dataclasses.replace(
        own, vision=dataclasses.replace(own.vision, **vision)
      )
    return lambda: llava_export.plan(own, shapes, images, vocab)

  prepare = dataclasses.replace(images.prepare, crop=(24, 24))
  scales = dataclasses.replace(model.scales, logits=2.0)
  for write, message in (
    (written({'projector': projector.Linear()}), 'another projector than'),
    (written({'projector': projector.MLP(hidden_width=5)}), 'hidden_width=5'),
    (written(vocab=Bytes()), 'as 7 ids, and a LLaVA has one for images'),
    (written(images=Images(prepare=prepare)), 'images of \\(24, 24\\) pixels'),
    (written(scales=scales), 'the head of a LLaVA has no factor'),
  ):
    with pytest.raises(errors.InputError, match=message) as e:
      write()
    assert '\n' not in str(e.value)


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize('exported', ['clip'], indirect=True)
def test_transformers_gives_the_logits_and_prepares_the_images(exported):
  if not hf_process.is_there():
    pytest.skip(f'{hf_process.PYTHON} has no torch and transformers')
  source, _, out = exported
  script = hf_process.SCRIPT.with_name('make_hf_llava.py')
  said = hf_process.theirs('check', out, source, script=script)
  far, ids = json.loads(said)
  assert far < 1e-5
  assert ids == [5, 59, 59, 59, 59, 6]
