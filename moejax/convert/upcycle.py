"""Upcycling: makes a model with experts of a dense model's weights.

The feed-forward of every layer that is to have experts is cut into them; all
other weights are copied. With F hidden units in the feed-forward and f in an
expert, there are m = F / f slices:

  slice 0 .. S - 1        the S shared experts, which every token passes
  slice S .. m - 1        routed experts, E / (m - S) copies of each slice

m = 1 and S = 0 is sparse upcycling (Komatsuzaki et al., arXiv 2212.05055):
every expert is the whole feed-forward. m > 1 is granular upcycling (He et al.,
arXiv 2410.07524), and with S > 0 it has the shape of DeepSeekMoE.

Example, m = 3, S = 1, E = 4; the feed-forward's hidden units are [a b c]:
  shared   [a]
  experts  0: [b]  1: [c]  2: [b]  3: [c]     two copies of {b, c}

The experts of one copy (0 and 1 in the example) begin with the same router
column ("virtual groups" in arXiv 2410.07524, section 3.3), so a token that
chooses (m - S) j experts chooses j whole copies. Its gates sum to W, and the
output matrices of the experts are multiplied by (m - S) / W. The new model then
computes what the dense one did; exactly, if W is the same for every token, as
with renormalised gates. W is computed by running the router on logits of zero.
If gates are not renormalised, the two models are equal for a router of zeros,
and nearly equal for a router close to it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.convert import upcycle_vision
from moejax.core import errors, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe import experts
from moejax.parallel import mesh as meshes

ROUTER = 'moe/ffn/router/w_DE'
# Model keys that may differ between the dense model and the new one.
MAY_DIFFER = (
  'moe',
  'first_dense',
  'moe_every',
  'remat',
  'attention',
  'dtype',
  'scan_unroll',
  'token_chunks',
  'max_length',
)


@dataclasses.dataclass(frozen=True)
class Upcycling:
  """Options of upcycling.

  Attributes:
    rescale: whether w_out is multiplied by (m - S) / W (module docstring).
      Without it, outputs of the experts have another size than in the dense
      model.
    groups: whether the experts of one copy begin with the same router column.
    noise: standard deviation of the Gaussian noise that is added to w_in and
      w_out of the routed experts, as a fraction of the standard deviation of
      w_in or w_out over all layers. With noise, copies of a slice differ.
    seed: seed of the router and the noise.
  """

  rescale: bool = True
  groups: bool = True
  noise: float = 0.0
  seed: int = 0

  def __post_init__(self):
    if not 0 <= self.noise < math.inf:
      raise errors.InputError(f'--noise={self.noise} must be 0 or more')
    if not 0 <= self.seed < 2**32:
      raise errors.InputError(
        f'--seed={self.seed} must be from 0 to 4294967295'
      )


def _same_decoder(dense: ModelConfig, sparse: ModelConfig) -> bool:
  """Whether the feed-forwards of the decoder stay as they are."""
  keys = ('moe', 'feed_forward', 'first_dense', 'moe_every')
  return all(getattr(dense, key) == getattr(sparse, key) for key in keys)


def upcycle(
  dense: ModelConfig,
  sparse: ModelConfig,
  weights: dict[str, Any],
  options: Upcycling = Upcycling(),
) -> dict[str, Any]:
  """Makes the weights of `sparse` from those of `dense`.

  Experts that `sparse` has in its encoder or projector are made as
  `upcycle_vision` says.

  Args:
    dense: a model without experts where `sparse` has new ones.
    sparse: config of the model with experts in some layers.
    weights: tree of the weights of `dense`, as arrays.
    options: see Upcycling.

  Returns:
    The tree of the weights of `sparse`.

  Raises:
    InputError: the two configs do not fit together.
  """
  if dense.vision != sparse.vision:
    keys = options.rescale, options.noise, options.seed
    weights = upcycle_vision.upcycle(dense, sparse, weights, *keys)
    dense = dataclasses.replace(dense, vision=sparse.vision)
    if _same_decoder(dense, sparse):
      return weights
  copies = _check(dense, sparse)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  fresh = build.build(sparse, mesh).init(jax.random.key(options.seed))
  old = {k: np.asarray(v) for k, v in trees.leaves(weights).items()}
  is_moe_N = np.array([kind == 'moe' for kind in sparse.kinds])
  new = dict(trees.leaves(fresh))
  for path in new:
    kind, _, rest = path.partition('/')
    if kind == 'dense':
      new[path] = old[path][~is_moe_N]
    elif kind == 'moe' and not rest.startswith('ffn/'):
      new[path] = old[f'dense/{rest}'][is_moe_N]
    elif kind != 'moe':
      new[path] = old[path]
  new |= _experts(sparse, old, is_moe_N, options)
  if options.groups and ROUTER in new:
    w_NDE = np.asarray(new[ROUTER])
    slices = w_NDE.shape[-1] // copies
    new[ROUTER] = np.repeat(w_NDE[..., ::slices], slices, axis=-1)
  return trees.map_paths(lambda path, _: jnp.asarray(new[path]), fresh)


def _check(dense: ModelConfig, sparse: ModelConfig) -> int:
  """Number of copies of each slice; raises InputError if sizes do not fit."""
  if dense.num_sparse:
    raise errors.InputError(
      'upcycling begins with a dense model, but this one has experts in '
      f'{dense.num_sparse} of {dense.num_layers} layers: name the --workdir of '
      'a dense model, such as of a run with model.moe.num_experts=0'
    )
  kind = sparse.moe.experts
  if not sparse.num_moe or type(kind) is not experts.SwiGLU:
    raise errors.InputError(
      'upcycling makes SwiGLU experts, but the new model has none: set '
      'model.moe.num_experts and model.moe.experts=swiglu'
    )
  if sparse.mtp_layers:
    raise errors.InputError(
      f'upcycling makes no modules of multi-token prediction: set '
      f'model.mtp_layers=0, not {sparse.mtp_layers}'
    )
  for field in dataclasses.fields(ModelConfig):
    old, new = (getattr(c, field.name) for c in (dense, sparse))
    if field.name not in MAY_DIFFER and old != new:
      raise errors.InputError(
        f'model.{field.name} is {old!r} in the dense model and {new!r} in '
        f'the new one: only the feed-forwards may change; leave out '
        f'--config.model.{field.name}'
      )
  moe = sparse.moe
  if dense.dense_width % moe.expert_width:
    divisor = _divisor(dense.dense_width, moe.expert_width)
    raise errors.InputError(
      f'model.moe.expert_width={moe.expert_width} does not divide the dense '
      f"model's model.dense_width={dense.dense_width} into slices: set "
      f'model.moe.expert_width={divisor}, say'
    )
  slices = dense.dense_width // moe.expert_width
  if moe.shared.width:
    raise errors.InputError(
      f'model.moe.shared.width={moe.shared.width}: shared experts are cut as '
      'wide as routed ones; set it to 0, and model.moe.num_shared instead'
    )
  routed = slices - moe.num_shared
  if routed < 1:
    raise errors.InputError(
      f'model.moe.num_shared={moe.num_shared} shared experts take all of the '
      f'{slices} slices of the dense feed-forward: set model.moe.num_shared '
      f'below {slices}, or a smaller model.moe.expert_width'
    )
  if moe.num_experts % routed:
    copies = -(-moe.num_experts // routed)
    raise errors.InputError(
      f'of {slices} slices model.moe.num_shared={moe.num_shared} leave '
      f'{routed} to be routed, of which model.moe.num_experts='
      f'{moe.num_experts} is no multiple: set model.moe.num_experts='
      f'{copies * routed}, say'
    )
  if kind.bias or moe.zero_computation.num or moe.latent_width:
    raise errors.InputError(
      'upcycling makes experts without biases, at the width of the model, and '
      'nothing beside them: set model.moe.experts.bias=false, '
      'model.moe.latent_width=0 and model.moe.zero_computation.num=0'
    )
  return moe.num_experts // routed


def _divisor(width: int, wanted: int) -> int:
  """The largest divisor of a width that is at most `wanted`."""
  least = min(width, wanted)
  return next(d for d in range(least, 0, -1) if width % d == 0)


def _experts(
  sparse: ModelConfig,
  old: dict[str, np.ndarray],
  is_moe_N: np.ndarray,
  options: Upcycling,
) -> dict[str, np.ndarray]:
  """Weights of the routed and shared experts, by path.

  Args:
    sparse: config of the new model.
    old: weights of the dense model by path.
    is_moe_N: mask of the layers that have experts in the new model.
    options: see Upcycling.
  """
  moe = sparse.moe
  w_in = old['dense/ffn/w/w_in_ED2F'][is_moe_N, 0]  # [N, D, 2, F]
  w_out = old['dense/ffn/w/w_out_EFD'][is_moe_N, 0]  # [N, F, D]
  cut = moe.num_shared * moe.expert_width
  layers, width = w_in.shape[:2]
  in_ND2SF = w_in[..., cut:].reshape(layers, width, 2, -1, moe.expert_width)
  slices_in = np.moveaxis(in_ND2SF, 3, 1)  # [N, slices, D, 2, f]
  slices_out = w_out[:, cut:].reshape(layers, -1, moe.expert_width, width)
  num = slices_in.shape[1]
  factor = num / upcycle_vision.sum_of_gates(moe) if options.rescale else 1.0
  copies = (1, moe.num_experts // num, 1, 1)
  weights = {
    'moe/ffn/routed/w_in_ED2F': np.tile(slices_in, (*copies, 1)),
    'moe/ffn/routed/w_out_EFD': np.tile(slices_out * factor, copies),
  }
  rng = np.random.default_rng(options.seed)
  for path, w in weights.items():
    if options.noise:
      drawn = rng.standard_normal(w.shape, np.float32)
      weights[path] = w + options.noise * w.std() * drawn
  if moe.num_shared:
    weights['moe/ffn/shared/w_in_ED2F'] = w_in[:, None, ..., :cut]
    weights['moe/ffn/shared/w_out_EFD'] = w_out[:, None, :cut]
  return {path: w.astype(np.float32) for path, w in weights.items()}
