"""FLOPs of reading images: passes of the encoder and of the projector.

  reading = sight_count.of_run(run)      what a row of the run has
  reading.flops(run.model)               of training on the images of one row

As in `count.Count.flops`, matrices and attention's products count, and biases,
norms, routers and recomputation do not. A row counts as full: all images for
which it has room are computed, as all its tokens are.
"""

import dataclasses
import math

import jax

from moejax.config.run import Run
from moejax.core import trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.plan import count
from moejax.train import parts
from moejax.vision.front_end import Encoder

_ENCODER, _PROJECTOR = 'vision/encoder/', 'vision/projector/'
_LAYERS = _ENCODER + 'layers/'


@dataclasses.dataclass(frozen=True)
class Reading:
  """The images of one row.

  Attributes:
    images: their number.
    patches: of each image.
    encoder: passes of the encoder, counted in forward passes: 3 if it is
      trained, 1 if it is frozen, and 0 if features were computed before.
  """

  images: int = 0
  patches: int = 0
  encoder: int = 3

  def flops(self, config: ModelConfig) -> float:
    """FLOPs of training on the images of one row."""
    if not self.images:
      return 0.0
    encoder, projector = forward(config, self.patches)
    return self.images * (self.encoder * encoder + 3 * projector)


NONE = Reading()


def forward(config: ModelConfig, patches: int) -> tuple[float, float]:
  """FLOPs of a forward pass over one image: of the encoder, of the projector.

  With N tokens of the encoder (patches, and the class token if there is one):

    encoder    2 * patches * N_embedding + L * (2 * N * N_layer + 4 * N^2 * D)
    projector  2 * patches * N_projector

  for the L layers up to the last one that is read, and the matrices N_... that
  a token uses.

  Args:
    config: of a model that reads images.
    patches: of the image.
  """
  vision = config.vision
  assert isinstance(vision, Encoder)
  encoder = vision.encoder
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  used = dict.fromkeys((_LAYERS, _ENCODER, _PROJECTOR), 0.0)
  shares = {
    part: mixture.used_share(patches)
    for part, mixture in vision.mixtures.items()
  }
  for path, leaf in trees.leaves(build.build(config, mesh).shapes).items():
    front = next((f for f in used if path.startswith(f)), None)
    rest = path.removeprefix(front or '').split('/')
    if front is None or 'router' in rest or not rest[-1].startswith('w_'):
      continue
    part = 'projector' if front == _PROJECTOR else 'encoder'
    if front == _ENCODER and len(rest) > 1:
      continue  # of the pooling, which is not computed
    share = shares.get(part, 1.0) if 'routed' in rest else 1.0
    used[front] += share * math.prod(leaf.shape)
  tokens = patches + encoder.class_token
  count = encoder.num_layers
  layers = max(layer % (count + 1) for layer in vision.layers)
  scores = 4 * tokens**2 * encoder.width
  return (
    2 * patches * used[_ENCODER]
    + layers * (2 * tokens * used[_LAYERS] / count + scores),
    2 * patches * used[_PROJECTOR],
  )


def of_run(run: Run) -> Reading:
  """The images for which a row of a run has room; none without images."""
  images = run.data.images
  if not images.folder or not isinstance(run.model.vision, Encoder):
    return NONE
  encoder = 0
  if not images.features:
    mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
    decays = build.build(run.model, mesh).decays
    frozen = parts.frozen(run.opt.parts, decays)
    own = [path for path in decays if path.startswith(_ENCODER)]
    # Adapters are on the decoder alone.
    trained = not run.train.lora.rank and not frozen.issuperset(own)
    encoder = 3 if trained else 1
  room = max(1, run.data.sequence_length // images.tokens)
  return Reading(room, images.tokens, encoder)


def flops_per_token(run: Run) -> float:
  """FLOPs of training on a token, those of the images in its row included."""
  length = run.data.sequence_length
  images = of_run(run).flops(run.model)
  return count.flops_per_token(run.model, length) + images / length


def training_flops(run: Run) -> float:
  """FLOPs of the whole training."""
  tokens = run.train.steps * run.train.batch_size * run.data.sequence_length
  return tokens * flops_per_token(run)
