"""A dense model's weights as those of a model with experts (upcycling).

Every layer's feed-forward becomes experts; all else is copied. With F hidden
units in the feed-forward and f in an expert, it is cut into m = F / f slices:

  slice 0 .. S - 1        the S shared experts, which every token passes
  slice S .. m - 1        routed, each of them copied E / (m - S) times

m = 1 and S = 0 is sparse upcycling (Komatsuzaki et al., arXiv 2212.05055):
every expert is the whole feed-forward. m > 1 is granular upcycling (He et al.,
arXiv 2410.07524), and with S > 0 it has the shape of DeepSeekMoE.

Example, m = 3, S = 1, E = 4; the feed-forward's hidden units are [a b c]:
  shared   [a]
  experts  0: [b]  1: [c]  2: [b]  3: [c]     two copies of {b, c}

The experts of one copy begin with the same router column ("virtual groups" in
arXiv 2410.07524, section 3.3), so that a token that chooses (m - S) j experts
chooses j whole copies. Its gates sum to W, and the experts' outputs are
multiplied by (m - S) / W (one factor, on w_out): then the new model computes
what the dense one did, exactly so if W is the same for every token, as with
renormalised gates. W is read off the router itself, at logits of zero; where
gates are not renormalised the two models are equal for a router of zeros, and
near it nearly so.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe import contract, experts
from moejax.parallel import mesh as meshes

ROUTER = 'moe/ffn/router/w_DE'
# Keys that may differ between the two models.
FREE = (
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
  """How.

  Attributes:
    rescale: whether w_out is multiplied as above; without it the new model
      begins with outputs of another size.
    groups: whether the experts of one copy begin with one router column.
    noise: standard deviation of what is added to every expert's weights, as a
      part of that of each matrix; so copies begin to differ.
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


def upcycle(
  dense: ModelConfig,
  sparse: ModelConfig,
  weights: dict[str, Any],
  how: Upcycling = Upcycling(),
) -> dict[str, Any]:
  """The weights of `sparse` made of those of `dense`.

  Args:
    dense: a model without experts.
    sparse: config of the model with experts in some layers.
    weights: weights of `dense`, as arrays.
    how: see there.

  Raises:
    InputError: the two do not fit; it says what and how to mend it.
  """
  copies = _check(dense, sparse)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  fresh = build.build(sparse, mesh).init(jax.random.key(how.seed))
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
  new |= _experts(sparse, old, is_moe_N, how)
  if how.groups and ROUTER in new:
    w_NDE = np.asarray(new[ROUTER])
    each = w_NDE.shape[-1] // copies
    new[ROUTER] = np.repeat(w_NDE[..., ::each], each, axis=-1)
  return trees.map_paths(lambda path, _: jnp.asarray(new[path]), fresh)


def _check(dense: ModelConfig, sparse: ModelConfig) -> int:
  """Number of copies of each slice; raises InputError if sizes do not fit."""
  if dense.num_sparse:
    raise errors.InputError(
      'upcycling begins with a dense model, but this one has experts in '
      f'{dense.num_sparse} of {dense.num_layers} layers'
    )
  if not sparse.num_moe or type(sparse.moe.experts) is not experts.SwiGLU:
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
    here, there = (getattr(c, field.name) for c in (dense, sparse))
    if field.name not in FREE and here != there:
      raise errors.InputError(
        f'model.{field.name} is {here!r} in the dense model and {there!r} in '
        'the new one: only the feed-forwards may change'
      )
  moe = sparse.moe
  if dense.dense_width % moe.expert_width:
    raise errors.InputError(
      f'model.moe.expert_width={moe.expert_width} does not divide the dense '
      f"model's model.dense_width={dense.dense_width} into slices"
    )
  slices = dense.dense_width // moe.expert_width
  if moe.shared.width:
    raise errors.InputError(
      f'model.moe.shared.width={moe.shared.width}: shared experts are cut as '
      'wide as routed ones; set it to 0, and model.moe.num_shared instead'
    )
  routed = slices - moe.num_shared
  if routed < 1 or moe.num_experts % routed:
    raise errors.InputError(
      f'of {slices} slices model.moe.num_shared={moe.num_shared} leave '
      f'{routed} to be routed, of which model.moe.num_experts='
      f'{moe.num_experts} must be a multiple'
    )
  if moe.experts.bias or moe.zero_computation.num or moe.latent_width:
    raise errors.InputError(
      'upcycling makes experts without biases, at the width of the model, and '
      'nothing beside them: set model.moe.experts.bias=false, '
      'model.moe.latent_width=0 and model.moe.zero_computation.num=0'
    )
  return moe.num_experts // routed


def _experts(sparse, old, is_moe_N, how) -> dict[str, np.ndarray]:
  """Routed and shared experts of all layers that have them."""
  moe = sparse.moe
  w_in = old['dense/ffn/w/w_in_ED2F'][is_moe_N, 0]  # [N, D, 2, F]
  w_out = old['dense/ffn/w/w_out_EFD'][is_moe_N, 0]  # [N, F, D]
  cut = moe.num_shared * moe.expert_width
  layers, width = w_in.shape[:2]
  in_ND2SF = w_in[..., cut:].reshape(layers, width, 2, -1, moe.expert_width)
  slices_in = np.moveaxis(in_ND2SF, 3, 1)  # [N, slices, D, 2, f]
  slices_out = w_out[:, cut:].reshape(layers, -1, moe.expert_width, width)
  num = slices_in.shape[1]
  factor = num / _gates(sparse) if how.rescale else 1.0
  copies = (1, moe.num_experts // num, 1, 1)
  experts = {
    'moe/ffn/routed/w_in_ED2F': np.tile(slices_in, (*copies, 1)),
    'moe/ffn/routed/w_out_EFD': np.tile(slices_out * factor, copies),
  }
  rng = np.random.default_rng(how.seed)
  for path, w in experts.items():
    if how.noise:
      drawn = rng.standard_normal(w.shape, np.float32)
      experts[path] = w + how.noise * w.std() * drawn
  if moe.num_shared:
    experts['moe/ffn/shared/w_in_ED2F'] = w_in[:, None, ..., :cut]
    experts['moe/ffn/shared/w_out_EFD'] = w_out[:, None, :cut]
  return {path: w.astype(np.float32) for path, w in experts.items()}


def _gates(sparse: ModelConfig) -> float:
  """What a token's gates sum to when all logits are zero."""
  moe = sparse.moe
  extra_scorers = moe.router.extra_scorers(moe.num_choices)
  zeros = jnp.zeros((1, moe.num_logits))
  one = jnp.ones(1, jnp.int32)
  routing = moe.router(
    contract.RouterInput(
      logits_TE=zeros,
      valid_T=one > 0,
      index_T=one,
      key=None,
      row_length=1,
      extra_scores={
        name: jnp.zeros((1, num)) for name, (_, num) in extra_scorers.items()
      },
      token_T=one,
    )
  )
  return float(jnp.sum(routing.weight_A))
