"""Upcycling of a front end: experts that are copies of its feed-forwards.

Sparse upcycling (Komatsuzaki et al., arXiv 2212.05055), as LibMoE (arXiv
2411.00918) does it with encoder and connector: every expert, routed or shared,
is the whole dense feed-forward, biases included, and routers are drawn anew.

With gates that sum to W, and N shared experts of weight s, the layer computes
(W + N s) times what the dense one did. All output matrices and biases are
divided by W + N s, so that the new model is the old one: exactly, if W is the
same for every token. W is computed by running the router on logits of zero.
LibMoE's layers need no division: W is 1, or 0.5 beside a shared expert of
weight 0.5.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, trees
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.config import MoEConfig
from moejax.moe.experts.two_matrix import TwoMatrix
from moejax.parallel import mesh as meshes
from moejax.vision import build, front_end
from moejax.vision.feed_forward import Dense, Mixture, Sizes
from moejax.vision.projector import MLP

# Name of an expert's weight -> that of the dense feed-forward.
_DENSE = {
  'w_in_EDF': 'w_in_DF',
  'b_in_EF': 'b_in_F',
  'w_out_EFD': 'w_out_FD',
  'b_out_ED': 'b_out_D',
}
_OUTPUT = ('w_out_EFD', 'b_out_ED')
# Where the dense feed-forwards are, by part, and how many axes are in front.
_FROM = {
  'encoder': ('vision/encoder/layers/ffn', 1),
  'projector': ('vision/projector', 0),
}


def upcycle(
  dense: ModelConfig,
  sparse: ModelConfig,
  weights: dict[str, Any],
  rescale: bool = True,
  noise: float = 0.0,
  seed: int = 0,
) -> dict[str, Any]:
  """The weights of `dense` with the front end of `sparse`.

  Args:
    dense: a model without experts in its front end, or in the parts of it that
      change.
    sparse: config of the model with experts there.
    weights: tree of the weights of `dense`, as arrays.
    rescale: whether outputs of experts are divided by W + N s.
    noise: standard deviation of the noise that is added to the matrices of the
      routed experts, as a fraction of that of a matrix.
    seed: of routers and noise.

  Raises:
    InputError: the two front ends do not fit together.
  """
  vision, changed = _changed(dense, sparse)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])

  def make(key: jax.Array) -> front_end.FrontEnd:
    return front_end.FrontEnd(vision, sparse.width, mesh, key)

  fresh = build.structure(make, mesh).init(jax.random.key(seed))
  old = {k: np.asarray(v) for k, v in trees.leaves(weights).items()}
  new = {
    path: old.get(path, w)
    for path, w in trees.leaves({'vision': fresh}).items()
  }
  rng = np.random.default_rng(seed)
  for part, mixture in changed.items():
    whole = sum_of_gates(mixture) + mixture.num_shared * mixture.shared.weight
    factor = 1 / whole if rescale else 1.0
    place = '/'.join(front_end.PLACES[part])
    for path, like in new.items():
      owner, _, name = path.removeprefix(f'{place}/').rpartition('/')
      if not path.startswith(f'{place}/') or owner not in {'routed', 'shared'}:
        continue
      start, axis = _FROM[part]
      w = old[f'{start}/{_DENSE[name]}']
      shared = mixture.num_shared if owner == 'shared' else 1
      w = _repeated(w, name, shared) * (factor if name in _OUTPUT else 1.0)
      w = np.broadcast_to(np.expand_dims(w, axis), like.shape)
      if noise and owner == 'routed' and name.startswith('w_'):
        drawn = rng.standard_normal(w.shape, np.float32)
        w = w + noise * w.std() * drawn
      new[path] = w.astype(np.float32)
  kept = {path: w for path, w in old.items() if not path.startswith('vision/')}
  joined = {**kept, **new}
  return trees.nest({path: jnp.asarray(w) for path, w in joined.items()})


def _repeated(w: np.ndarray, name: str, shared: int) -> np.ndarray:
  """The weight of `shared` copies, as one feed-forward of their width."""
  if name == 'b_out_ED':
    return w * shared
  axis = -2 if name == 'w_out_EFD' else -1
  return np.concatenate([w] * shared, axis=axis)


def _changed(
  dense: ModelConfig, sparse: ModelConfig
) -> tuple[front_end.Encoder, dict[str, Mixture]]:
  """The new front end, and its new experts by part; raises InputError."""
  old, new = dense.vision, sparse.vision
  if not isinstance(old, front_end.Encoder) or not isinstance(
    new, front_end.Encoder
  ):
    raise errors.InputError(
      'model.vision.name differs between the dense model and the new one: only '
      'feed-forwards may change; leave out --config.model.vision.name'
    )
  mixtures = {
    part: mixture
    for part, mixture in new.mixtures.items()
    if old.mixtures.get(part) != mixture
  }
  for part in old.mixtures:
    if part in mixtures or part not in new.mixtures:
      raise errors.InputError(
        f'model.vision: the {part} has experts already; upcycling begins with '
        f'a dense one: leave its keys out'
      )
  _check_rest(old, new, mixtures)
  sizes = {'encoder': old.encoder.sizes}
  if isinstance(old.projector, MLP):
    sizes['projector'] = old.projector.sizes(old.feature_width, dense.width)
  return new, {
    part: _checked(part, mixture, sizes[part], new, dense.width)
    for part, mixture in mixtures.items()
  }


def _check_rest(
  old: front_end.Encoder, new: front_end.Encoder, mixtures: dict[str, Mixture]
) -> None:
  """Raises InputError if more than the feed-forwards changes."""
  if 'projector' in mixtures and not isinstance(old.projector, MLP):
    raise errors.InputError(
      'model.vision.projector.name=experts is made of copies of an MLP, and '
      'the dense model has another projector: leave it out'
    )
  same = _without_experts(old, mixtures), _without_experts(new, mixtures)
  for name in ('encoder', 'layers', 'projector'):
    one, other = (getattr(front, name) for front in same)
    if one != other:
      raise errors.InputError(
        f'model.vision.{name} differs between the dense model and the new one '
        'by more than its experts: leave out its other keys'
      )


def _without_experts(
  front: front_end.Encoder, mixtures: dict[str, Mixture]
) -> front_end.Encoder:
  """A front end with dense feed-forwards in the place of new experts."""
  if 'encoder' in mixtures:
    encoder = dataclasses.replace(front.encoder, feed_forward=Dense())
    front = dataclasses.replace(front, encoder=encoder)
  if 'projector' in mixtures:
    front = dataclasses.replace(front, projector=MLP())
  return front


def _checked(
  part: str,
  mixture: Mixture,
  dense: Sizes,
  front: front_end.Encoder,
  width: int,
) -> Mixture:
  """The experts with their sizes; raises InputError if they cannot be copies.

  Args:
    part: of the front end.
    mixture: its experts.
    dense: the feed-forward that they are made of.
    front: the new front end.
    width: of the decoder.
  """
  own = front.sizes(part, width)
  key = front_end.KEYS[part]
  mixture = mixture.resolved(own)
  if mixture.expert_width != dense.hidden:
    raise errors.InputError(
      f'{key}.expert_width={mixture.expert_width}: experts are copies of a '
      f'feed-forward of width {dense.hidden}; set it to 0'
    )
  wanted = TwoMatrix(bias=True, activation=dense.activation)
  if mixture.experts != wanted:
    raise errors.InputError(
      f'{key}.experts: experts are copies of a feed-forward with biases and '
      f'activation={dense.activation}; set experts.name=as_dense'
      + (f' and activation={dense.activation}' if part == 'projector' else '')
    )
  if mixture.shared.gate or mixture.shared.width or mixture.low_rank:
    raise errors.InputError(
      f'{key}: shared experts are copies without a gate: set '
      'shared.gate=false, shared.width=0 and low_rank=0'
    )
  if mixture.latent_width:
    raise errors.InputError(
      f'{key}.latent_width={mixture.latent_width}: experts are copies at the '
      'width of the encoder; set it to 0'
    )
  return mixture


def sum_of_gates(moe: MoEConfig) -> float:
  """The sum of a token's gates when all logits are zero: W above."""
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
