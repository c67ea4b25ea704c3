r"""DeepSeekMoE 16B Chat: the settings with which the paper tunes its 16B model.

  moejax count --config=ds_16b_chat
  moejax plan --config=ds_16b_chat --topology=v5p:4x4x4
  moejax train --config=ds_16b_chat \
    --workdir=runs/16b_chat --config.start=runs/16b \
    --config.data.conversations=talks.jsonl \
    --config.data.chat.template=deepseek

Section 5.2.1 of the paper (arXiv 2401.06066): 1.4M examples for 8 epochs, with
a batch size of 1024 examples, AdamW at a constant 1e-5, no dropout, and 4K
tokens in which examples are packed as densely as possible.

Made for a TPU v5p slice of 4 x 4 x 4 chips; not run at full size.

Ours, where the paper is silent: a batch of 1024 rows, so that train.steps is
the number of steps if each row had one example (1.4M * 8 / 1024). Rows hold
several, so set train.steps by the rows of your conversations, which
`moejax cache` prints. Optimiser settings but the rate are those of
pretraining. The conversations of the paper are not public.
"""

from moejax import config


def get_config():
  """The paper's settings; what is ours is marked."""
  c = config.beside(__file__, 'ds_16b.py')
  c.opt.peak_lr = 1e-5
  c.opt.schedule = {'name': 'constant', 'warmup': 0}
  c.train.steps = 10_938
  c.train.batch_size = 1024
  # Ours, for 64 chips. It changes memory and time alone.
  c.model.token_chunks = 2  # of the 16 rows that a chip has
  c.train.eval_every = 500
  return c
