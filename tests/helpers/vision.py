"""Vision encoders by hand: their files, and their mathematics in NumPy.

Nothing of moejax is used: names and shapes are those of the files of CLIP and
SigLIP, and every step is a plain formula in float64.
"""

import json
import math

import numpy as np
from safetensors.numpy import save_file

# Sizes that differ from one another, so that no two axes can be confused.
CONFIG = {
  'hidden_size': 12,
  'intermediate_size': 20,
  'num_hidden_layers': 3,
  'num_attention_heads': 3,
  'image_size': 28,
  'patch_size': 7,
}
KINDS = {
  'clip': {'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5},
  'siglip': {'hidden_act': 'gelu_pytorch_tanh', 'layer_norm_eps': 1e-6},
}
erf = np.vectorize(math.erf)
ACTIVATIONS = {
  'gelu': lambda x: x * (1 + erf(x / 2**0.5)) / 2,
  'gelu_pytorch_tanh': lambda x: (
    x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
  ),
  'quick_gelu': lambda x: x / (1 + np.exp(-1.702 * x)),
}


def config(kind, **changes):
  """The config.json of an encoder alone."""
  kinds = {'model_type': f'{kind}_vision_model'}
  return {**CONFIG, **KINDS[kind], **kinds, **changes}


def _affine(name, out, width):
  return {f'{name}.weight': (out, width), f'{name}.bias': (out,)}


def _norm(name, width):
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def shapes(kind, config):
  """The shape of every tensor by its name, without a prefix."""
  width, hidden = config['hidden_size'], config['intermediate_size']
  side = config['patch_size']
  num = (config['image_size'] // side) ** 2
  found = {'embeddings.patch_embedding.weight': (width, 3, side, side)}
  found['embeddings.position_embedding.weight'] = (
    num + (kind == 'clip'),
    width,
  )
  for layer in range(config['num_hidden_layers']):
    front = f'encoder.layers.{layer}.'
    for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      found |= _affine(f'{front}self_attn.{name}', width, width)
    found |= _affine(front + 'mlp.fc1', hidden, width)
    found |= _affine(front + 'mlp.fc2', width, hidden)
    found |= _norm(front + 'layer_norm1', width)
    found |= _norm(front + 'layer_norm2', width)
  found |= _norm('post_layernorm', width)
  if kind == 'clip':
    found['embeddings.class_embedding'] = (width,)
    return found | _norm('pre_layrnorm', width)
  found['embeddings.patch_embedding.bias'] = (width,)
  if config.get('vision_use_head', True):
    found['head.probe'] = (1, 1, width)
    found['head.attention.in_proj_weight'] = (3 * width, width)
    found['head.attention.in_proj_bias'] = (3 * width,)
    found |= _affine('head.attention.out_proj', width, width)
    found |= _norm('head.layernorm', width)
    found |= _affine('head.mlp.fc1', hidden, width)
    found |= _affine('head.mlp.fc2', width, hidden)
  return found


def tensors(kind, config, seed=0):
  """Random tensors that keep activations near 1."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in shapes(kind, config).items():
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
    start = name.endswith('.weight') and 'norm' in name
    drawn = start + 1.5 / fan_in**0.5 * rng.normal(size=shape)
    found[name] = drawn.astype(np.float32)
  return found


def write(path, config, tensors, prefix=''):
  """A folder with these tensors."""
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(config))
  named = {prefix + name: x for name, x in tensors.items()}
  save_file(named, path / 'model.safetensors')
  return path


def images(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Reference:
  """An encoder in NumPy, one image and one head at a time."""

  def __init__(self, kind, config, tensors):
    self.kind, self.config = kind, config
    self.w = {name: x.astype(np.float64) for name, x in tensors.items()}
    self.act = ACTIVATIONS[config['hidden_act']]

  def affine(self, name, x):
    return x @ self.w[f'{name}.weight'].T + self.w[f'{name}.bias']

  def norm(self, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps)
    return x * self.w[f'{name}.weight'] + self.w[f'{name}.bias']

  @property
  def eps(self):
    return self.config['layer_norm_eps']

  def mlp(self, name, x):
    return self.affine(f'{name}.fc2', self.act(self.affine(f'{name}.fc1', x)))

  def attention(self, q, k, v):
    """One matrix of each, all heads next to each other."""
    outs, heads = [], self.config['num_attention_heads']
    size = q.shape[-1] // heads
    for head in range(heads):
      part = slice(head * size, (head + 1) * size)
      score = q[:, part] @ k[:, part].T / size**0.5
      prob = np.exp(score - score.max(-1, keepdims=True))
      outs.append(prob / prob.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(outs, -1)

  def positions(self, rows, columns):
    """For the patches, each place by the formula of the kernel."""
    table = self.w['embeddings.position_embedding.weight']
    table = table[int(self.kind == 'clip') :]
    side = round(len(table) ** 0.5)
    return np.stack([
      self.position(table, side, (r + 0.5) / rows, (c + 0.5) / columns)
      for r in range(rows)
      for c in range(columns)
    ])

  def position(self, table, side, down, across):
    total = 0.0
    down, across = down * side - 0.5, across * side - 0.5
    for r in range(math.floor(down) - 1, math.floor(down) + 3):
      for c in range(math.floor(across) - 1, math.floor(across) + 3):
        weight = keys_kernel(down - r) * keys_kernel(across - c)
        row, column = (min(max(i, 0), side - 1) for i in (r, c))
        total = total + weight * table[row * side + column]
    return total

  def embed(self, image_HWC):
    side = self.config['patch_size']
    rows, columns = (n // side for n in image_HWC.shape[:2])
    kernel = self.w['embeddings.patch_embedding.weight']
    patches = [
      [
        np.sum(
          kernel
          * image_HWC[
            r * side : (r + 1) * side, c * side : (c + 1) * side
          ].transpose(2, 0, 1),
          axis=(1, 2, 3),
        )
        for c in range(columns)
      ]
      for r in range(rows)
    ]
    x = np.array(patches).reshape(rows * columns, -1)
    x = x + self.w.get('embeddings.patch_embedding.bias', 0.0)
    x = x + self.positions(rows, columns)
    if self.kind == 'siglip':
      return x
    first = self.w['embeddings.class_embedding']
    first = first + self.w['embeddings.position_embedding.weight'][0]
    return self.norm('pre_layrnorm', np.concatenate([first[None], x]))

  def hidden_states(self, image_HWC):
    """The embeddings, and the output of each layer."""
    x = self.embed(image_HWC.astype(np.float64))
    found = [x]
    for layer in range(self.config['num_hidden_layers']):
      front = f'encoder.layers.{layer}.'
      h = self.norm(front + 'layer_norm1', x)
      q, k, v = (
        self.affine(f'{front}self_attn.{name}_proj', h) for name in 'qkv'
      )
      h = self.attention(q, k, v)
      x = x + self.affine(front + 'self_attn.out_proj', h)
      x = x + self.mlp(front + 'mlp', self.norm(front + 'layer_norm2', x))
      found.append(x)
    return found

  def outputs(self, image_HWC):
    """The tokens after the last layer, and the pooled vector."""
    x = self.hidden_states(image_HWC)[-1]
    if self.kind == 'clip':
      return x, self.norm('post_layernorm', x[:1])[0]
    x = self.norm('post_layernorm', x)
    if 'head.probe' not in self.w:
      return x, None
    w = np.split(self.w['head.attention.in_proj_weight'], 3)
    b = np.split(self.w['head.attention.in_proj_bias'], 3)
    q = self.w['head.probe'][0] @ w[0].T + b[0]
    out = self.attention(q, x @ w[1].T + b[1], x @ w[2].T + b[2])
    out = self.affine('head.attention.out_proj', out)
    return x, (out + self.mlp('head.mlp', self.norm('head.layernorm', out)))[0]


def keys_kernel(x):
  """The cubic convolution kernel with PyTorch's parameter."""
  x, a = abs(x), -0.75
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  if x < 2:
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return 0.0
