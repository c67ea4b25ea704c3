r"""LibMoE's three stages of a vision-language model, at its sizes and rates.

  moejax stages --config=vision/libmoe_stages:WORKDIR \
    --workdir=runs/libmoe

WORKDIR has the weights of encoder and language model, as
`moejax convert` joins them (docs/vision_training.md); the paper's are
SigLIP-so400m-patch14-224 and Phi-3.5-mini. Section 3.2 and appendices A.1 and
B.1 of the paper (arXiv 2411.00918), on 4 GPUs:

  connector   LLaVA-558K, the connector alone, 1e-3, batches of 256
  everything  ALLaVA-4V captions, all weights, 2e-6, batches of 24
  experts     LLaVA-665K, encoder and connector upcycled to 6 experts, top-3,
              4e-6, batches of 32: 20,791 steps; balance 0.01, z-loss 0.001

All have one epoch, a cosine after a warm-up over 3% of the steps, no weight
decay, 2,048 tokens and bfloat16. The conversations are llava_558k.json,
allava_4v.json and llava_665k.json, and their images are below images/.

Ours: rows are packed, so a batch has more conversations than rows; the number
of steps of the second stage, which the paper does not print; one scale of
images, where the paper's code adds a second, enlarged one; the language model's
template in the first stage too. Built in tests with a tiny model; not run at
full size.
"""

from moejax import config
from moejax.core import table

STAGES = (
  config.Stage('connector'),
  config.Stage('everything', {'connector': '*'}),
  config.Stage('experts', upcycles='everything'),
)
# By stage: conversations, peak learning rate, batch, steps.
RUNS = {
  'connector': ('llava_558k.json', 1e-3, 256, 2_180),
  'everything': ('allava_4v.json', 2e-6, 24, 20_000),
  'experts': ('llava_665k.json', 4e-6, 32, 20_791),
}


def get_config(words):
  """`workdir,stage`: weights to begin with, and one of STAGES."""
  workdir, _, stage = words.rpartition(',')
  conversations, rate, batch, steps = table.lookup('stage', RUNS, stage)
  c = config.from_checkpoint(workdir)
  if c.model.vision.name == 'none':
    raise ValueError(
      f'the model of {workdir} reads text alone: join it with an encoder '
      '(moejax convert join), and name the workdir of both'
    )
  c.data.conversations = conversations
  encoder = c.model.vision.encoder
  c.data.images.folder = 'images'
  c.data.images.tokens = (encoder.image_size // encoder.patch_size) ** 2
  c.data.images.prepare.size = (encoder.image_size,) * 2
  c.data.sequence_length = min(2048, c.model.max_length)
  c.model.dtype = 'bfloat16'
  c.opt.peak_lr = rate
  c.opt.weight_decay = 0.0
  warmup = round(0.03 * steps)
  c.opt.schedule = {'name': 'cosine', 'warmup': warmup, 'end': 0.0}
  c.train.batch_size = batch
  c.train.steps = steps
  c.train.checkpoint_every = 500
  if stage == 'connector':
    # [!v]*: all that is not below vision/.
    frozen = {'weights': 'vision/encoder,[!v]*', 'lr_factor': 0.0}
    c.opt.parts = {'frozen': frozen}
  if stage == 'experts':
    c.model.vision.encoder.feed_forward = {'name': 'experts'}
    c.model.vision.projector = {'name': 'experts'}
  return c
