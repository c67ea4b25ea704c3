"""Makes tiny random checkpoints with transformers, and what they answer.

  python tests/golden/make_hf.py make FOLDER [--seed=1] [family ...]
  python tests/golden/make_hf.py check FOLDER EXPECTED.npz
  python tests/golden/make_hf.py unpack FILE.npz
  python tests/golden/make_hf.py classes hf_classes.txt
  python tests/golden/make_hf.py float32 FOLDER

Needs torch and transformers (5.x), and nothing of moejax; the tests that read
what it makes need neither. The committed ones are those of seed 0; another seed
draws other shapes too. Of each family there are, in a folder of its name:

  config.json, model.safetensors   as transformers writes them, in bfloat16
  expected.npz
    token_BL     ids, the first of each row 0
    logits_BLV   float32
    experts_NBLK the chosen experts of each layer that has any, ascending
    loss         mean cross-entropy of token_BL[:, 1:] from token_BL[:, :-1]
    aux_loss     the balance loss, before its coefficient, if the class has one
    grad NAME    of that loss, by the name of the tensor
    new_BL       ids that follow each row, greedily
  and of a family with multi-token prediction, of its modules k = 1, 2:
    mtp_K_BLV    logits after all but the last k tokens
    mtp_loss     mean over modules of the sum of cross-entropies over [B, L - 1]
    mtp grad NAME
  memory/   config.json and model.safetensors once more, by the names that
            transformers holds in memory (save_original_format=False)

The committed ones have `memory` for two families.

`check` loads a folder with AutoModelForCausalLM and prints the largest
difference to the logits of the file, over their standard deviation. `unpack`
adds w to a file that has blocks and scales of MXFP4. `classes` writes the names
of all classes that answer for a causal language model. `float32` prints the
tensors that transformers holds in float32 when a folder is loaded in bfloat16.
"""

import argparse
import pathlib
import sys

import hf_families
import hf_old_deepseek
import numpy as np
import torch
import transformers
from hf_families import LENGTH
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_layers import MtpModel

BATCH, NEW = 2, 8
GRADIENTS = (
  'embed_tokens.weight',
  'layers.0.self_attn.o_proj.weight',
  'layers.1.input_layernorm.weight',
  'layers.1.mlp.gate.weight',
  'layers.1.mlp.gate.wg.weight',
  'layers.1.mlp.router.weight',
  'layers.1.block_sparse_moe.router.weight',
  'layers.1.post_feedforward_layernorm.weight',
)


def scale(name, x):
  """Std of a tensor that keeps activations near 1 and routing alive."""
  if 'norm' in name or x.ndim == 1 or 'e_score' in name:
    return 0.2
  if 'embed_tokens' in name:
    return 1.0
  fan_in = x.shape[-1]
  if '.experts.' in name and x.ndim == 3:
    fan_in = min(x.shape[1:])
  router = name.endswith(('mlp.gate.weight', 'gate.wg.weight', 'router.weight'))
  return (3.0 if router else 1.5) / fan_in**0.5


@torch.no_grad()
def fill(model, generator):
  """Draws all weights, as numbers that bfloat16 has."""
  for name, x in [*model.named_parameters(), *model.named_buffers()]:
    if 'inv_freq' in name:
      continue
    start = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
    drawn = start + scale(name, x) * torch.randn(x.shape, generator=generator)
    x.copy_(drawn.to(torch.bfloat16).float())


def watch(model):
  """Lists of what routers choose, filled by every later call."""
  found = []

  def hook(module, given, out):
    found.append(out[2].detach().sort(-1).values)

  for name, module in model.named_modules():
    if name.endswith(('mlp.gate', 'mlp.router', 'moe.router')):
      module.register_forward_hook(hook)
  return found


def predict(model, token_BL, generator):
  """What modules of multi-token prediction say, and their tensors.

  Module k reads the hidden states of the module before it, and the tokens that
  are k further on.
  """
  found, loss = {}, 0.0
  modules = MtpModel(model, model.config.num_mtp_layers).float().eval()
  modules.set_attn_implementation('eager')
  fill(modules.layers, generator)
  x_BLD = model.model(input_ids=token_BL).last_hidden_state
  for k in range(len(modules.layers)):
    place_BL = torch.arange(LENGTH - k - 1).expand(BATCH, -1)
    x_BLD = modules.forward_layer(
      k, x_BLD[:, :-1], place_BL, None, input_ids=token_BL[:, k + 1 :]
    )
    logits_BLV = modules._project_to_logits(x_BLD)
    found[f'mtp_{k + 1}_BLV'] = logits_BLV.detach().numpy()
    loss += nn.functional.cross_entropy(
      logits_BLV[:, :-1].reshape(-1, logits_BLV.shape[-1]),
      token_BL[:, k + 2 :].reshape(-1),
      reduction='sum',
    )
  loss = loss / len(modules.layers) / (BATCH * (LENGTH - 1))
  model.zero_grad()
  loss.backward()
  found['mtp_loss'] = loss.detach().numpy()
  tensors, shared = {}, model.model.embed_tokens.weight
  found['mtp grad model.embed_tokens.weight'] = shared.grad.numpy()
  for k, layer in enumerate(modules.layers):
    front = f'model.layers.{model.config.num_hidden_layers + k}.'
    for name, x in layer.state_dict().items():
      name = name.removeprefix('mtp_block.')
      tensors[front + name.replace('post_norm', 'shared_head.norm')] = x
    grad = layer.eh_proj.weight.grad
    found[f'mtp grad {front}eh_proj.weight'] = grad.numpy()
    tensors[front + 'embed_tokens.weight'] = shared
    tensors[front + 'shared_head.head.weight'] = model.lm_head.weight
  return found, tensors


def balance_loss(model, token_BL):
  """What the class adds to its loss when it is asked for router logits."""
  if not getattr(model.config, 'router_aux_loss_coef', 0):
    return {}
  with torch.no_grad():
    found = model(input_ids=token_BL, output_router_logits=True)
  loss = getattr(found, 'aux_loss', None)
  return {} if loss is None else {'aux_loss': loss.numpy()}


def make(family, folder, seed):
  rng = np.random.default_rng([seed, *family.encode()]) if seed else None
  make_config, cls = hf_families.FAMILIES[family]
  config = make_config(hf_families.shared_sizes(rng))
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  model = cls(config).float().eval()
  generator = torch.Generator().manual_seed(seed + 1)
  fill(model, generator)
  vocab = config.vocab_size
  token_BL = torch.randint(1, vocab, (BATCH, LENGTH), generator=generator)
  token_BL[:, 0] = 0
  found = watch(model)
  logits_BLV = model(input_ids=token_BL).logits.float()
  loss = nn.functional.cross_entropy(
    logits_BLV[:, :-1].reshape(-1, vocab), token_BL[:, 1:].reshape(-1)
  )
  loss.backward()
  # DeepseekV2's router yields [T, K], as the others' do.
  experts_NBLK = torch.zeros((0, BATCH, LENGTH, 0))
  if found:
    experts_NBLK = torch.stack(found).reshape(len(found), BATCH, LENGTH, -1)
  if hasattr(model, 'generation_config'):
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
  with torch.no_grad():
    whole_BL = model.generate(
      token_BL,
      attention_mask=torch.ones_like(token_BL),
      max_new_tokens=NEW,
      do_sample=False,
    )
  folder.mkdir(parents=True, exist_ok=True)
  gradients = {
    f'grad {in_file(family, name)}': p.grad.numpy()
    for name, p in model.named_parameters()
    if name.endswith(GRADIENTS)
  }
  said, more = {}, {}
  if getattr(config, 'num_mtp_layers', 0):
    said, more = predict(model, token_BL, generator)
  np.savez_compressed(
    folder / 'expected.npz',
    token_BL=token_BL.numpy().astype(np.int32),
    logits_BLV=logits_BLV.detach().numpy(),
    experts_NBLK=experts_NBLK.numpy().astype(np.int32),
    loss=loss.detach().numpy(),
    **balance_loss(model, token_BL),
    new_BL=whole_BL[:, LENGTH:].numpy().astype(np.int32),
    **gradients,
    **said,
  )
  more = hf_old_deepseek.by_expert(more)
  model.to(torch.bfloat16).save_pretrained(folder)
  if isinstance(model, transformers.PreTrainedModel):
    model.save_pretrained(folder / 'memory', save_original_format=False)
    (folder / 'memory' / 'generation_config.json').unlink(missing_ok=True)
  if more:
    more |= load_file(folder / hf_old_deepseek.SINGLE)
    save_file(more, folder / hf_old_deepseek.SINGLE, {'format': 'pt'})
  (folder / 'generation_config.json').unlink(missing_ok=True)
  size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
  say(f'{family}: {size / 1e3:.0f} kB, std {logits_BLV.std():.3f}')


def in_file(family, name):
  """The tensors of these are called otherwise in memory than in files."""
  if family in ('minimax_m2', 'mixtral'):
    name = name.replace('.mlp.', '.block_sparse_moe.')
  if family == 'granitemoe':
    name = name.replace('.router.', '.router.layer.')
  if family == 'ernie4_5_moe':
    name = name.replace('.gate.moe_statics.', '.moe_statics.')
  return name


def check(folder, expected):
  want = np.load(expected)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation='eager'
  )
  with torch.no_grad():
    token_BL = torch.from_numpy(want['token_BL']).long()
    got = model.eval()(input_ids=token_BL).logits.numpy()
  far = np.abs(got - want['logits_BLV']).max() / want['logits_BLV'].std()
  say(f'{type(model).__name__} {far:.2e}')


def unpack(file):
  from transformers.integrations import mxfp4

  given = dict(np.load(file))
  w = mxfp4.convert_moe_packed_tensors(
    torch.from_numpy(given['blocks']), torch.from_numpy(given['scales'])
  )
  np.savez(file, **given, w=w.float().numpy())


def classes(file):
  found = [n for n in dir(transformers) if n.endswith('ForCausalLM')]
  file.write_text('\n'.join(sorted(found)) + '\n')


def float32(folder):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16
  )
  for name, x in model.state_dict().items():
    if x.dtype == torch.float32:
      say(in_file(model.config.model_type, name))


def say(line):
  sys.stdout.write(line + '\n')


def main():
  flags = argparse.ArgumentParser(description=__doc__)
  alone = {'unpack': unpack, 'classes': classes, 'float32': float32}
  flags.add_argument('what', choices=['make', 'check', *alone])
  flags.add_argument('folder', type=pathlib.Path)
  flags.add_argument('names', nargs='*')
  flags.add_argument('--seed', type=int, default=0)
  args = flags.parse_args()
  torch.set_num_threads(1)
  if args.what in alone:
    alone[args.what](args.folder)
    return
  if args.what == 'check':
    check(args.folder, args.names[0])
    return
  for family in args.names or hf_families.FAMILIES:
    make(family, args.folder / family, args.seed)


if __name__ == '__main__':
  main()
