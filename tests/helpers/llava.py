"""Tiny LLaVA checkpoints that transformers made, and what it says of them.

tests/golden/make_hf_llava.py makes them.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import tokenizers

from moejax.convert import folder, llava, llava_model
from moejax.parallel import mesh as meshes

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'hf_llava'
NAMES = sorted(path.name for path in GOLDEN.iterdir())
STEPS = {
  'image_processor_type': 'CLIPImageProcessor',
  'size': {'shortest_edge': 16},
  'crop_size': {'height': 16, 'width': 16},
}


def mesh():
  return meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])


def read(path):
  """Plan, model and weights of a folder."""
  plan = llava.plan(folder.open_folder(str(path)))
  model = llava_model.model(plan, mesh())
  return plan, model, llava_model.weights(plan, model)


def by_row(feature_NPD, count_B):
  """feature_BID: the features of each row's images, padded."""
  length = max(count_B.max(), 1) * feature_NPD.shape[1]
  rows, at = [], 0
  for count in count_B:
    own = feature_NPD[at : at + count].reshape(-1, feature_NPD.shape[-1])
    rows.append(np.pad(own, ((0, length - len(own)), (0, 0))))
    at += count
  return np.stack(rows)


def embeddings(model, weights, want):
  """feature_BID and x_BLD of the rows of expected.npz."""
  feature_NPD = jax.jit(model.features)(weights, want['image_NHWC'])
  feature_BID = by_row(np.asarray(feature_NPD), want['count_B'])
  x_BLD = jax.jit(model.embeddings)(weights, want['token_BL'], feature_BID)
  return feature_BID, x_BLD


def far(path):
  """Largest difference of the logits to transformers', over their std."""
  want = np.load(path / 'expected.npz')
  _, model, weights = read(path)
  feature_BID, _ = embeddings(model, weights, want)
  found = jax.jit(model.logits)(weights, want['token_BL'], feature_BID)
  return np.abs(found - want['logits_BLV']).max() / want['logits_BLV'].std()


def give_words(path, count=59, image='<image>'):
  """Writes a tokenizer of words; the token of images is the last one."""
  words = {f'w{i}': i for i in range(count)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token='w0')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens([image])
  tokenizer.save(str(path / 'tokenizer.json'))
  settings = {'eos_token': 'w2', 'tokenizer_class': 'PreTrainedTokenizerFast'}
  (path / 'tokenizer_config.json').write_text(json.dumps(settings))


def speaking(path, name='clip', template=None):
  """A copy of a checkpoint with a tokenizer of words and an image processor.

  Words are w0 to w58, ids 0 to 58; w2 ends a text and <image> is 59.
  """
  path = pathlib.Path(shutil.copytree(GOLDEN / name, path))
  give_words(path)
  (path / 'preprocessor_config.json').write_text(json.dumps(STEPS))
  if template:
    (path / 'chat_template.jinja').write_text(template)
  return path
