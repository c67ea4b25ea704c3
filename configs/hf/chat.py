r"""Tunes a Hugging Face checkpoint, or a run's model, on conversations.

  moejax train --config=hf/chat:FOLDER \
    --workdir=runs/chat --config.data.conversations=talks.jsonl
  moejax chat --workdir=runs/chat

FOLDER is a folder of any family in docs/models.md, or a workdir: imported,
upcycled or trained. docs/chat.md has the schemas of conversations.

The template is that of the folder; for a model without one, set
--config.data.chat.template=chatml. All weights are trained, or adapters beside
them: --config.train.lora.rank=16 --config.opt.peak_lr=1e-4. The model keeps its
balance losses and selection biases. The learning rate is that with which
DeepSeekMoE 16B Chat was made (arXiv 2401.06066, section 5.2.1).
"""

from moejax import config


def get_config(folder):
  """Conversations are in talks.jsonl, unless a flag names other files."""
  c = config.from_checkpoint(folder)
  c.data.conversations = 'talks.jsonl'
  c.data.sequence_length = min(4096, c.model.max_length)
  c.opt.peak_lr = 1e-5
  c.opt.schedule = {'name': 'constant', 'warmup': 0}
  c.train.steps = 200
  c.train.batch_size = 8
  c.train.log_every = 10
  c.train.checkpoint_every = 100
  c.train.eval_every = 100
  c.train.eval_batches = 1
  return c
