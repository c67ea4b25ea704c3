"""Makes tiny random LLaVA checkpoints with transformers, and what they answer.

  python tests/golden/make_hf_llava.py make FOLDER [--seed=1] [name ...]
  python tests/golden/make_hf_llava.py check FOLDER FOLDER_WITH_EXPECTED

Needs torch and transformers (5.x), and nothing of moejax; the tests that read
what it makes need neither. The committed ones are those of seed 0. Of each name
in MODELS there are, in a folder of that name:

  config.json, model.safetensors   as transformers writes them, in bfloat16
  expected.npz
    token_BL     ids; image tokens where features go
    image_NHWC   the images of all rows, one after the other
    count_B      number of images of each row
    logits_BLV   float32
    new_BL       ids that follow each row, greedily

Rows have no image, one, and two, in several places.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

IMAGE, NEW = 59, 6  # id of image tokens; new tokens of each row
VISION = {
  'hidden_size': 24,
  'intermediate_size': 20,
  'num_hidden_layers': 3,
  'num_attention_heads': 3,
  'image_size': 16,
  'patch_size': 8,
}
TEXT = {
  'vocab_size': 60,
  'hidden_size': 32,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
}
# Ids of a row, and what is in it: w a word, i an image, and words up to the end
# at the dot.
LENGTH, ROWS = 18, ('.', 'wwwi.', 'wiwwwi.', '.ii', 'i.')


def clip():
  """The shape of LLaVA-1.5."""
  return transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**VISION),
    text_config=transformers.LlamaConfig(**TEXT),
    image_token_index=IMAGE,
  )


def siglip():
  """All tokens of two layers, and another language model and activation."""
  return transformers.LlavaConfig(
    vision_config=transformers.SiglipVisionConfig(
      **VISION, vision_use_head=False
    ),
    text_config=transformers.Qwen2Config(**TEXT, tie_word_embeddings=True),
    image_token_index=IMAGE,
    vision_feature_select_strategy='full',
    vision_feature_layer=[-2, 1],
    projector_hidden_act='gelu_pytorch_tanh',
  )


def granite():
  """A language model with experts, which scales its embeddings."""
  return transformers.LlavaConfig(
    # The strategy leaves the first patch out.
    vision_config=transformers.SiglipVisionConfig(
      **VISION, vision_use_head=False
    ),
    text_config=transformers.GraniteMoeConfig(
      **TEXT,
      num_local_experts=4,
      num_experts_per_tok=2,
      embedding_multiplier=3.0,
      logits_scaling=2.0,
      tie_word_embeddings=False,
    ),
    image_token_index=IMAGE,
    vision_feature_layer=-1,
  )


def phi3():
  """Joint matrices, windows, and positions that are stretched by a list."""
  pairs = TEXT['hidden_size'] // TEXT['num_attention_heads'] // 2
  return transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**VISION),
    text_config=transformers.Phi3Config(
      **TEXT,
      sliding_window=7,
      # Longer than the rows, but not with the new tokens.
      original_max_position_embeddings=20,
      rope_parameters={
        'rope_type': 'longrope',
        'rope_theta': 1e4,
        'short_factor': [1 + 0.25 * i for i in range(pairs)],
        'long_factor': [1 + 2.0 * i for i in range(pairs)],
      },
      pad_token_id=None,
    ),
    image_token_index=IMAGE,
  )


MODELS = {make.__name__: make for make in (clip, siglip, granite, phi3)}


@torch.no_grad()
def fill(model, generator):
  """Draws all weights, as numbers that bfloat16 has."""
  for name, x in model.named_parameters():
    start = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
    std = 0.3 if x.ndim < 2 else 1.5 / x[0].numel() ** 0.5
    std = 1.0 if 'embed_tokens' in name else std
    drawn = start + std * torch.randn(x.shape, generator=generator)
    x.copy_(drawn.to(torch.bfloat16).float())


def tokens(row, num_features, rng):
  """The ids of a row."""
  used = row.count('i') * num_features + row.count('w')
  ids = []
  for place in row.replace('.', 'w' * (LENGTH - used)):
    word = int(rng.integers(1, IMAGE))
    ids += [IMAGE] * num_features if place == 'i' else [word]
  return ids


@torch.no_grad()
def make(name, folder, seed):
  rng = np.random.default_rng([seed, *name.encode()])
  config = MODELS[name]()
  torch.manual_seed(0)
  model = transformers.LlavaForConditionalGeneration(config).float().eval()
  model.set_attn_implementation('eager')
  fill(model, torch.Generator().manual_seed(seed))
  side = config.vision_config.image_size
  grid = (side // config.vision_config.patch_size) ** 2
  # The first patch counts as a class token for SigLIP.
  left_out = config.vision_feature_select_strategy == 'default'
  grid += (config.vision_config.model_type == 'clip_vision_model') - left_out
  whole = [tokens(row, grid, rng) for row in ROWS]
  count_B = np.array([row.count('i') for row in ROWS])
  size = (count_B.sum(), side, side, 3)
  image_NHWC = rng.normal(size=size).astype(np.float32)
  asked = {
    'input_ids': torch.tensor(whole),
    'pixel_values': torch.from_numpy(image_NHWC.transpose(0, 3, 1, 2).copy()),
  }
  logits_BLV = model(**asked).logits.numpy()
  model.generation_config = transformers.GenerationConfig(pad_token_id=0)
  new_BL = model.generate(
    **asked,
    attention_mask=torch.ones_like(asked['input_ids']),
    max_new_tokens=NEW,
    do_sample=False,
  )[:, LENGTH:].numpy()
  model.to(torch.bfloat16).save_pretrained(folder)
  (folder / 'generation_config.json').unlink(missing_ok=True)
  np.savez_compressed(
    folder / 'expected.npz',
    token_BL=np.array(whole, np.int32),
    image_NHWC=image_NHWC,
    count_B=count_B,
    logits_BLV=logits_BLV,
    new_BL=new_BL.astype(np.int32),
  )


@torch.no_grad()
def check(folder, expected):
  """Prints the relative difference of a folder's logits, and a prompt's ids.

  Args:
    folder: a LLaVA with its processor.
    expected: a folder with expected.npz.
  """
  want = np.load(expected / 'expected.npz')
  model = transformers.LlavaForConditionalGeneration.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  pixels = want['image_NHWC'].transpose(0, 3, 1, 2)
  found = model(
    input_ids=torch.tensor(want['token_BL'].astype(np.int64)),
    pixel_values=torch.tensor(pixels),
  ).logits.numpy()
  far = np.abs(found - want['logits_BLV']).max() / want['logits_BLV'].std()
  processor = transformers.AutoProcessor.from_pretrained(folder)
  image = np.zeros((20, 18, 3), np.uint8)
  made = processor(images=image, text='w5 <image> w6', return_tensors='pt')
  sys.stdout.write(json.dumps([float(far), made['input_ids'][0].tolist()]))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('what', choices=('make', 'check'))
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('names', nargs='*', default=[*MODELS])
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  if flags.what == 'check':
    check(flags.folder, pathlib.Path(*flags.names))
    return
  for name in flags.names:
    make(name, flags.folder / name, flags.seed)


if __name__ == '__main__':
  main()
