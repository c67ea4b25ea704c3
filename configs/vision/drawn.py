r"""A tiny model with experts learns to see, in LibMoE's three stages.

  moejax scenes --to=scenes
  moejax stages --config=vision/drawn:scenes \
    --workdir=runs/drawn

LibMoE (arXiv 2411.00918, section 3.2) joins a vision encoder and a language
model that others have trained. Here two stages before take their place:

  text        the language model, on scenes told in words and on questions
              without any; so it is also the model that does not see
  sight       the encoder, on images and their descriptions, with a decoder that
              is thrown away (as CapPa does, arXiv 2306.07915)
  connector   both, joined by a fresh connector, which alone is trained
  everything  all weights
  experts     encoder and connector upcycled to 6 experts, of which each patch
              takes 3; balance loss 0.01, z-loss 0.001

Ours: everything is tiny, all stages read the same kinds of conversations, and
learning rates are those that suit fresh weights: LibMoE's fall from 1e-3 to
2e-6 and 4e-6. docs/vision_training.md has the scores of all stages.
"""

from moejax import config
from moejax.core import table

STAGES = (
  config.Stage('text'),
  config.Stage('sight'),
  config.Stage('connector', {'text': '*', 'sight': 'vision/encoder'}),
  config.Stage('everything', {'connector': '*'}),
  config.Stage('experts', upcycles='everything'),
)
KINDS = ('describe', 'count', 'colour', 'shape', 'relation')
INIT_STD = 0.08
ENCODER = {
  'image_size': 48,
  'patch_size': 16,
  'width': 96,
  'num_layers': 2,
  'num_heads': 4,
  'hidden_width': 192,
  'init_std': INIT_STD,
}


def _sources(folder, places, rate=1.0):
  """Sources of conversations; `places` has their paths by name."""
  return {
    name: {
      'conversations': f'{folder}/{place.format("train")}',
      'validation_files': f'{folder}/{place.format("held")}',
      'rate': rate,
      'chat': {'template': 'deepseek'},
    }
    for name, place in places.items()
  }


def _images(c, folder, *, captions=False):
  """Conversations about images, each kind a source; or captions alone."""
  places = {kind: f'{{}}/{kind}.json' for kind in KINDS}
  if captions:
    places = {'captions': 'captions/{}'}
  c.data.sources = _sources(folder, places)
  c.data.images.folder = folder
  c.data.images.tokens = 9
  c.data.images.prepare.size = (48, 48)
  c.model.vision = {
    'name': 'encoder',
    'encoder': ENCODER,
    'layers': (-1,),
    'projector': {'name': 'mlp', 'init_std': INIT_STD},
  }


def _text(c, folder):
  blind = {kind: f'text/{{}}/{kind}.json' for kind in KINDS}
  told = {f'told_{kind}': f'told/{{}}/{kind}.json' for kind in KINDS}
  c.data.sources = {
    **_sources(folder, blind, rate=0.2),
    **_sources(folder, told),
  }
  c.train.steps = 400


def _sight(c, folder):
  _images(c, folder, captions=True)
  c.train.steps = 500


def _connector(c, folder):
  _images(c, folder)
  # [!v]*: all that is not below vision/.
  frozen = {'weights': 'vision/encoder,[!v]*', 'lr_factor': 0.0}
  c.opt.parts = {'frozen': frozen}
  c.train.steps = 150


def _everything(c, folder):
  _images(c, folder)
  c.train.steps = 800


def _experts(c, folder):
  _images(c, folder)
  # The defaults are LibMoE's: 6 experts, top-3, and both losses.
  c.model.vision.encoder = {**ENCODER, 'feed_forward': {'name': 'experts'}}
  c.model.vision.projector = {'name': 'experts', 'init_std': INIT_STD}
  c.opt.peak_lr = 1e-3
  c.train.steps = 300


RUNS = {
  'text': _text,
  'sight': _sight,
  'connector': _connector,
  'everything': _everything,
  'experts': _experts,
}


def get_config(words):
  """`folder,stage`: the folder of the scenes, and one of STAGES."""
  folder, _, stage = words.rpartition(',')
  set_for_stage = table.lookup('stage', RUNS, stage)
  if not folder:
    raise ValueError(
      'no folder of scenes is named: moejax scenes --to=scenes makes one, and '
      'the config is vision/drawn:scenes then'
    )
  c = config.default()
  c.data.vocab = {'name': 'sentencepiece', 'path': f'{folder}/words.model'}
  c.data.sequence_length = 128
  c.model.vocab_size = 440
  c.model.max_length = 128
  c.model.num_layers = 2
  c.model.width = 128
  c.model.num_heads = 4
  c.model.head_dim = 32
  c.model.init_std = INIT_STD
  c.model.moe.num_experts = 8
  c.model.moe.expert_width = 64
  c.model.moe.num_shared = 1
  c.model.moe.router = {'name': 'top_k', 'k': 2}
  c.model.moe.balance = {'expert_level': {'alpha': 0.01}}
  c.opt.peak_lr = 2e-3
  c.opt.schedule = {'name': 'warmup_stable_decay', 'warmup': 30, 'decay': 0.3}
  c.train.batch_size = 16
  c.train.log_every = 50
  c.train.checkpoint_every = 200
  c.train.keep_checkpoints = 1
  c.train.save_best = False
  c.train.eval_every = 200
  c.train.eval_batches = 1
  c.report.eval_batches = 100  # all of them; and no baselines by xz
  c.report.samples = False
  c.report.trace_tokens = 0
  set_for_stage(c, folder)
  return c
