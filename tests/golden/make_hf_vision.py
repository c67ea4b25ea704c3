"""Makes tiny random vision encoders with transformers, and what they answer.

  python tests/golden/make_hf_vision.py make FOLDER [--seed=1]
  python tests/golden/make_hf_vision.py check WRITTEN FOLDER
  python tests/golden/make_hf_vision.py process FILE.npz

Needs torch and transformers, `process` Pillow too, and nothing of moejax. For
`clip`, `siglip` (an encoder alone), `clip_both`, `siglip_both` (with a text
model) and `llava` there is a folder as transformers writes it, with

  expected.npz
    image_BHWC    images of another size than the encoder's own
    hidden_NBSD   hidden states, the embeddings first
    last_BSD      last_hidden_state
    pooled_BD     pooler_output, if there is one

and `square.npz` with the same for images of the encoder's own size. `check`
loads all WRITTEN/NAME/LAYOUT and prints a line for each: name, layout, class,
the largest difference of last_hidden_state to FOLDER/NAME/expected.npz over its
standard deviation, and the number of missing and unexpected keys. `process`
reads image_0, image_1, ... from a file and adds what the Pillow processors of
transformers make of them: clip_0, siglip_0, odd_0, ...
"""

import argparse
import pathlib

import numpy as np
import torch
import transformers

SHARED = {
  'hidden_size': 24,
  'intermediate_size': 40,
  'num_hidden_layers': 3,
  'num_attention_heads': 3,
  'image_size': 32,
  'patch_size': 8,
}
TEXT = {
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 1,
  'num_attention_heads': 2,
  'vocab_size': 30,
}
SIZES = {'expected': (43, 70), 'square': (32, 32)}


def clip():
  config = transformers.CLIPVisionConfig(**SHARED)
  return transformers.CLIPVisionModel(config)


def siglip():
  config = transformers.SiglipVisionConfig(**SHARED)
  return transformers.SiglipVisionModel(config)


def clip_both():
  config = transformers.CLIPConfig(
    text_config=TEXT, vision_config=SHARED, projection_dim=12
  )
  return transformers.CLIPModel(config)


def siglip_both():
  config = transformers.SiglipConfig(text_config=TEXT, vision_config=SHARED)
  return transformers.SiglipModel(config)


def llava():
  config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(**SHARED),
    text_config=transformers.LlamaConfig(**TEXT),
    image_token_index=29,
  )
  return transformers.LlavaForConditionalGeneration(config)


MODELS = {m.__name__: m for m in (clip, siglip, clip_both, siglip_both, llava)}


def tower(model):
  """The encoder in a model."""
  for name in ('vision_model', 'vision_tower'):
    for place in (model, getattr(model, 'model', None)):
      if hasattr(place, name):
        return getattr(place, name)
  return model


@torch.no_grad()
def fill(model, generator):
  """Draws all weights so that activations stay near 1 and every part counts."""
  for name, x in model.named_parameters():
    start = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
    std = 0.3 if x.ndim < 2 else 1.5 / x[0].numel() ** 0.5
    x.copy_(start + std * torch.randn(x.shape, generator=generator))


@torch.no_grad()
def answers(model, image_BHWC):
  pixels = torch.from_numpy(image_BHWC.transpose(0, 3, 1, 2).copy())
  out = model(
    pixel_values=pixels,
    output_hidden_states=True,
    interpolate_pos_encoding=True,
  )
  found = {
    'image_BHWC': image_BHWC,
    'hidden_NBSD': torch.stack(out.hidden_states).numpy(),
    'last_BSD': out.last_hidden_state.numpy(),
  }
  if out.pooler_output is not None:
    found['pooled_BD'] = out.pooler_output.numpy()
  return found


def make(folder, seed):
  rng = np.random.default_rng(seed)
  for name, build in MODELS.items():
    generator = torch.Generator().manual_seed(seed)
    model = build().float().eval()
    fill(model, generator)
    model.save_pretrained(folder / name)
    for file, size in SIZES.items():
      image_BHWC = rng.normal(size=(2, *size, 3)).astype(np.float32)
      np.savez(
        folder / name / f'{file}.npz', **answers(tower(model), image_BHWC)
      )


def check(written, made):
  for folder in sorted(written.glob('*/*')):
    wanted = np.load(made / folder.parent.name / 'expected.npz')
    model, info = transformers.AutoModel.from_pretrained(
      folder, output_loading_info=True, dtype=torch.float32
    )
    found = answers(model.eval(), wanted['image_BHWC'])['last_BSD']
    far = np.abs(found - wanted['last_BSD']).max() / wanted['last_BSD'].std()
    missing = [*info['missing_keys'], *info['unexpected_keys']]
    name = f'{folder.parent.name} {folder.name} {type(model).__name__}'
    say(f'{name} {far} {len(missing)}')


def process(file):
  from transformers.models.clip import image_processing_pil_clip as clips
  from transformers.models.siglip import image_processing_pil_siglip as siglips

  processors = {
    'clip': clips.CLIPImageProcessorPil(),
    'siglip': siglips.SiglipImageProcessorPil(),
    # A crop that is larger than some images are after resizing.
    'odd': clips.CLIPImageProcessorPil(
      size={'height': 37, 'width': 64},
      crop_size={'height': 50, 'width': 31},
      resample=1,
    ),
  }
  content = dict(np.load(file))
  for name, image_HWC in list(content.items()):
    number = name.removeprefix('image_')
    for kind, processor in processors.items():
      out = processor(image_HWC, return_tensors='np')['pixel_values'][0]
      content[f'{kind}_{number}'] = out.transpose(1, 2, 0)
  np.savez(file, **content)
  for kind, processor in processors.items():
    processor.save_pretrained(pathlib.Path(file).parent / kind)


def say(line):
  print(line)  # noqa: T201 (what the test reads)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('what', choices=('make', 'check', 'process'))
  parser.add_argument('places', nargs='+', type=pathlib.Path)
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  if flags.what == 'make':
    make(*flags.places, flags.seed)
  else:
    {'check': check, 'process': process}[flags.what](*flags.places)


if __name__ == '__main__':
  main()
