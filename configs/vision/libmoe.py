r"""LibMoE's vision-language model, and its seven algorithms.

  moejax convert upcycle --workdir=runs/dense --to=runs/xmoe \
    --experts=configs/vision/libmoe.py:xmoe
  moejax train --config=vision/libmoe:shared_v3 ...

LibMoE (arXiv 2411.00918) puts experts into all feed-forwards of a SigLIP and
into the connector; the decoder, of the sizes of Phi-3.5-mini, stays dense.
Behind the colon is an algorithm, as its code for vision has it:

  smoe       top 3 of 6 by a softmax, weights over their sum
  sigma      the same by sigmoids; the balance loss is that of the softmax
  xmoe       cosines in 3 dimensions times 1.5 / 0.3, a softmax, top 3, and a
             softmax over the three probabilities
  shared_v2  half of 1 shared expert, and half of top 2 of 5 by a softmax
  shared_v3  the same by sigmoids
  moe_pp     6 experts, a zero and a constant, top 3; the connector, whose
             output has another width than its input, has the 6 alone
  tc_moe     6 experts with signs and 3 null choices, top 3

The balance loss of first choices has weight 0.01, the z-loss 0.001, and both
are averaged over the layers of the encoder. `upcycle --experts` takes the
experts alone and leaves all sizes to the dense model.

Theirs and not here: a balance weight of 1.3 for the fifth choice of MoE++; in
TC-MoE the constants of signs and null choices are learned there, and its loss
(`tc_moe`, form=without_null) is here that of the paper's counts; a second scale
of the image, which is the 224 pixels enlarged, so that the connector reads
1,152 numbers here and 2,304 there; routers that all start equal are an option,
routers_start_equal. Counted and built; not run at full size.
"""

from moejax import config


def _router(k=3, score='softmax', **keys):
  router = {'name': 'top_k', 'k': k, 'score': score, 'renormalise': True}
  return {'router': {**router, **keys}}


def _shared(score):
  return {
    'num_experts': 5,
    'num_shared': 1,
    'shared': {'weight': 0.5},
    **_router(2, score, scale=0.5),
  }


# Keys of the experts of both, encoder and connector.
ALGORITHMS = {
  'smoe': _router(),
  'sigma': _router(score='sigmoid'),
  'xmoe': {
    **_router(score='double_softmax'),
    'scorer': {
      'name': 'cosine',
      'learns_tau': False,
      'row_norm': 1.5,
      'in_place': True,
      'balance_tau': 0.0,
    },
  },
  'shared_v2': _shared('softmax'),
  'shared_v3': _shared('sigmoid'),
  'moe_pp': _router(),
  'tc_moe': {
    'router': {'name': 'tc_moe', 'k': 3, 'num_null': 3},
    'balance': {
      'tc_moe': {'alpha': 0.01, 'reward': 1e-5, 'form': 'without_null'},
      'z_loss': {'coefficient': 0.001},
    },
  },
}
# Keys of the encoder's alone.
OF_ENCODER = {'moe_pp': {'zero_computation': {'zero': 1, 'constant': 1}}}

SIGLIP = {
  'image_size': 224,
  'patch_size': 14,
  'width': 1152,
  'num_layers': 27,
  'num_heads': 16,
  'hidden_width': 4304,
  'activation': 'gelu_tanh',
  'norm_eps': 1e-6,
  'pooling': 'none',
}


def _vision(name):
  keys = {'name': 'experts', **ALGORITHMS[name]}
  return {
    'name': 'encoder',
    'encoder': {**SIGLIP, 'feed_forward': keys | OF_ENCODER.get(name, {})},
    'layers': (-2,),
    'projector': {**keys, 'activation': 'gelu'},
  }


VARIANTS = {name: {'model.vision': _vision(name)} for name in ALGORITHMS}


def get_config(name):
  """One of VARIANTS, by default smoe, with the settings of its last stage."""
  c = config.default()
  c.model.vocab_size = 32064
  c.model.max_length = 2048
  c.model.num_layers = 32
  c.model.width = 3072
  c.model.num_heads = 32
  c.model.head_dim = 96
  c.model.dense_width = 8192
  c.model.moe.num_experts = 0
  c.model.init_std = 0.02
  c.model.dtype = 'bfloat16'

  c.data.sequence_length = 2048
  c.data.images.tokens = 256

  c.opt.peak_lr = 4e-6
  c.opt.beta1 = 0.9
  c.opt.beta2 = 0.999
  c.opt.weight_decay = 0.0
  c.opt.schedule = {'name': 'cosine', 'warmup': 624, 'end': 0.0}
  c.train.steps = 20_791
  c.train.batch_size = 32
  return config.vary(c, VARIANTS, name)
