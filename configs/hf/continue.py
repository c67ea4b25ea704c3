"""Goes on training a Hugging Face checkpoint of any family in docs/models.md.

  moejax train --config=hf/continue:FOLDER \
    --workdir=runs/more --config.data.files=my_texts

FOLDER may also be a workdir: imported, upcycled or trained.

The model, its balance losses and the tokenizer are those of the folder. The
learning rate is small and constant after a warm-up, because the weights are
trained already. `moejax convert export` writes the result with
its tokenizer, chat template and generation settings.
"""

from moejax import config


def get_config(folder):
  """Goes on from a folder with config.json and safetensors, or a workdir."""
  c = config.from_checkpoint(folder)
  c.data.sequence_length = min(256, c.model.max_length)
  c.opt.peak_lr = 1e-5
  c.opt.schedule = {'name': 'constant', 'warmup': 20}
  c.train.steps = 200
  c.train.batch_size = 8
  c.train.log_every = 10
  c.train.checkpoint_every = 100
  c.train.eval_every = 100
  c.train.eval_batches = 1
  return c
