"""Goes on training a Hugging Face checkpoint of any family in docs/models.md.

  python -m moejax.main --config=configs/hf/continue.py:FOLDER \
    --workdir=runs/more --config.data.files=my_texts

FOLDER may be a workdir, too: imported, upcycled or trained.

The model, its balance losses and the tokenizer are the folder's; the learning
rate is small and constant after a warm-up, for weights that are trained
already. Write the result with `python -m moejax.cli.convert export`: tokenizer,
chat template and generation settings come along.
"""

from moejax import config


def get_config(folder):
  """FOLDER has config.json and safetensors, or is a workdir."""
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
