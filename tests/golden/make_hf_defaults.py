"""What transformers makes of keys of config.json that are left out, or null.

  python tests/golden/make_hf_defaults.py FOLDER [family ...]

Needs torch and transformers (5.x), and nothing of moejax. It writes a file for
each family whose tiny checkpoint is in tests/golden/hf:

  class, transformers   that were asked
  default    of each key: what the class has where it is left out; null is that
             of keys which it works out from others
  left_out   of each key: what the class has of the checkpoint's config.json
             without it; what it works out is worked out
  null       of each key: what null is as good as, by the logits of a model: a
             value, or null if it is like no value
  refused    keys whose null makes the class or the model fail
  aliases    further names of keys

and `rotary.json`: cases of rotary positions, each with the frequencies, the
factor of cos and sin, and the factor of scores that the model has; and
`windows.json`: cases of windows, each with that of every layer, 0 for none.
"""

import argparse
import dataclasses
import inspect
import json
import logging
import math
import pathlib
import sys

import make_hf
import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto

GOLDEN = pathlib.Path(__file__).parent / 'hf'
# Of training, of special tokens, of memory, or of what is printed.
WITHOUT_EFFECT = {
  'attention_dropout',
  'output_router_logits',
  'pretraining_tp',
  'residual_dropout',
  'router_aux_loss_coef',
  'router_jitter_noise',
  'use_cache',
}
OTHERS = ('_token_id', 'architectures', 'dtype', 'label', 'output_', 'return_')
# Read from rope_parameters and beside it: see the cases of rotary.json.
ROTARY = {'rope_parameters'}
VALUES = (False, 0, True)


def class_of(config):
  """The classes of configuration and model."""
  name = {'kimi_k2': 'deepseek_v3'}.get(
    config['model_type'], config['model_type']
  )
  if name not in configuration_auto.CONFIG_MAPPING:
    return None, None
  cls = configuration_auto.CONFIG_MAPPING[name]
  return cls, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[cls]


def keys_of(cls):
  """The fields of the class itself that the function of a model depends on."""
  base = {f.name for f in dataclasses.fields(transformers.PreTrainedConfig)}
  own = [f.name for f in dataclasses.fields(cls) if f.name not in base]
  own += [n for n in ('tie_word_embeddings',) if n in base]
  return sorted(
    name
    for name in own
    if name not in WITHOUT_EFFECT | ROTARY
    and not any(part in name for part in OTHERS)
  )


def make(cls, config):
  """A configuration; None if the class refuses it."""
  config = {k: v for k, v in config.items() if k != 'model_type'}
  try:
    return cls.from_dict(json.loads(json.dumps(config)))
  except Exception:  # noqa: BLE001 (of all kinds)
    return None


def logits(cls, model_cls, config):
  """Of a model with drawn weights; None if there is none or it fails."""
  made = make(cls, config)
  if made is None:
    return None
  made._attn_implementation = 'eager'
  try:
    model = model_cls(made).float().eval()
    make_hf.fill(model, torch.Generator().manual_seed(1))
    token_BL = torch.arange(2, 14)[None]
    with torch.no_grad():
      return model(input_ids=token_BL).logits
  except Exception:  # noqa: BLE001 (of all kinds)
    return None


def same(a, b):
  return a is not None and b is not None and torch.equal(a, b)


def of_family(config):
  """What there is to say of one family."""
  cls, model_cls = class_of(config)
  found = {
    'class': cls.__name__,
    'transformers': transformers.__version__,
    'aliases': cls.attribute_map,
    'default': {},
    'left_out': {},
    'null': {},
    'refused': [],
  }
  signature = inspect.signature(cls)
  names = {name: name for name in keys_of(cls)}
  for name, first in cls.attribute_map.items():
    if name in names:
      names[name] = first
  for field, name in sorted(names.items()):
    found['default'][name] = signature.parameters[field].default
    without = {k: v for k, v in config.items() if k not in (field, name)}
    made = make(cls, without)
    if made is not None:
      found['left_out'][name] = getattr(made, name)
    null = {**without, name: None}
    made, said = make(cls, null), logits(cls, model_cls, null)
    if said is None:
      found['refused'].append(name)
    elif getattr(made, name) is not None:
      found['null'][name] = getattr(made, name)
    else:
      like = [
        value
        for value in VALUES
        if same(said, logits(cls, model_cls, {**without, name: value}))
      ]
      kind = type(found['default'][name])
      number = like and kind in (int, float)
      found['null'][name] = kind(like[0]) if number else (like or [None])[0]
  found['default']['rope_theta'] = cls.default_theta
  return found


def yarn(**more):
  return {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0, **more}


def longrope(**more):
  return {
    'rope_type': 'longrope',
    'short_factor': [1.0, 1.25, 1.5, 2.0],
    'long_factor': [1.0, 2.0, 4.0, 8.0],
    **more,
  }


ORIGINAL = 'original_max_position_embeddings'
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
}
# Of a family: (changes of its config.json, lengths of texts). `rope` is put in
# as rope_parameters or, with `old`, as rope_scaling.
CASES = {
  'llama': [
    ({'rope': {}}, [12]),
    ({'rope': {'rope_theta': 5e5}, 'rope_theta': 1e6}, [12]),
    ({'rope': {'rope_type': 'default'}, 'rope_theta': 1e6}, [12]),
    ({'rope': {'rope_type': 'default'}, 'partial_rotary_factor': 0.5}, [12]),
    ({'rope': {'partial_rotary_factor': 0.5}}, [12]),
    ({'old': {'type': 'linear', 'factor': 4.0}, 'rope_theta': 2e4}, [12]),
    ({'rope': yarn()}, [12]),
    ({'rope': yarn(), ORIGINAL: 16}, [12]),
    ({'rope': yarn(**{ORIGINAL: 8}), ORIGINAL: 16}, [12]),
    ({'rope': yarn(factor=None, **{ORIGINAL: 16})}, [12]),
    ({'rope': yarn(**{ORIGINAL: 16, 'truncate': None})}, [12]),
    ({'rope': yarn(**{ORIGINAL: 16, 'truncate': False})}, [12]),
    ({'rope': yarn(**{ORIGINAL: 16, 'beta_fast': 0, 'beta_slow': None})}, [12]),
    ({'rope': yarn(**{ORIGINAL: 16, 'beta_fast': 4, 'beta_slow': 2})}, [12]),
    ({'rope': yarn(attention_factor=0.1 * math.log(4) + 1)}, [12]),
    ({'rope': yarn(attention_factor=1.5)}, [12]),
    ({'rope': yarn(attention_factor=None, mscale=0.7)}, [12]),
    ({'rope': yarn(mscale=0.7, mscale_all_dim=0.5)}, [12]),
    (
      {'rope': yarn(mscale=0.7, mscale_all_dim=0.5, attention_factor=2.0)},
      [12],
    ),
    ({'rope': LLAMA3, 'rope_theta': 5e5}, [12]),
    ({'rope': LLAMA3 | {ORIGINAL: 16}}, [12]),
    ({'rope': {'rope_type': 'dynamic', 'factor': 2.0}}, [12, 64, 65, 100]),
    ({'rope': longrope(**{ORIGINAL: 16})}, [16, 17]),
    ({'rope': longrope(**{ORIGINAL: 16, 'factor': 2.0})}, [12]),
    ({'rope': longrope(**{ORIGINAL: 16, 'factor': None})}, [12]),
    ({'rope': longrope(**{ORIGINAL: 16, 'attention_factor': 1.25})}, [12, 30]),
    ({'old': longrope(), ORIGINAL: 16}, [12, 30]),
    ({'rope': longrope()}, [12]),
  ],
  'gpt_oss': [
    ({'rope': None}, [12]),
    ({'rope': {}}, [12]),
    ({'rope': None, 'rope_theta': 1e4}, [12]),
    ({'rope': {'rope_type': 'default'}}, [12]),
  ],
  'mixtral': [({'rope': None}, [12]), ({'old': {}, 'rope': None}, [12])],
  'deepseek_v3': [
    ({'rope': yarn(mscale=0.7, mscale_all_dim=0.5, **{ORIGINAL: 16})}, [12]),
    ({'rope': yarn(mscale_all_dim=0.5, attention_factor=1.5)}, [12]),
    ({'rope': yarn(mscale=0.5)}, [12]),
    ({'rope': {'rope_type': 'linear', 'factor': 2.0}}, [12]),
    ({'rope': {'rope_type': 'default'}, 'partial_rotary_factor': 0.5}, [12]),
  ],
  'glm4_moe': [
    ({'rope': {}}, [12]),
    ({'rope': None}, [12]),
    ({'rope': {'rope_type': 'default'}, 'partial_rotary_factor': 1.0}, [12]),
    ({'rope': {'partial_rotary_factor': 0.25}}, [12]),
    ({'rope': yarn(**{ORIGINAL: 16})}, [12]),
  ],
  'minimax_m2': [
    ({'rope': None}, [12]),
    ({'rope': None, 'rotary_dim': 4}, [12]),
    ({'rope': None, 'rotary_dim': 4, 'partial_rotary_factor': 1.0}, [12]),
    ({'rope': {'partial_rotary_factor': 0.5}, 'rotary_dim': 2}, [12]),
  ],
}
OF_ROTARY = (
  'rope_parameters',
  'rope_scaling',
  'rope_theta',
  'partial_rotary_factor',
  'rotary_dim',
  ORIGINAL,
)


def of_rotary(config, changes, length):
  """What the model of a config has for texts of that length."""
  cls, model_cls = class_of(config)
  config = {k: v for k, v in config.items() if k not in OF_ROTARY}
  changes = dict(changes)
  for ours, theirs in (('rope', 'rope_parameters'), ('old', 'rope_scaling')):
    if ours in changes:
      changes[theirs] = changes.pop(ours)
  changes = json.loads(json.dumps(changes))
  made = cls.from_dict({**config, **json.loads(json.dumps(changes))})
  model = model_cls(made).model
  turn = model.rotary_emb
  turn(torch.zeros(1, 1), torch.arange(length)[None])
  attention = model.layers[0].self_attn
  width = getattr(attention, 'qk_head_dim', None) or attention.head_dim
  return {
    'family': config['model_type'],
    'changes': changes,
    'length': length,
    'frequencies': [float(f'{x:.8g}') for x in turn.inv_freq.tolist()],
    'attention_factor': float(turn.attention_scaling),
    'score_factor': round(float(attention.scaling) * width**0.5, 9),
  }


SOME = {'sliding_window': 5, 'max_window_layers': 1}
ON = {'use_sliding_window': True}
# Of a family: changes of its config.json, to which four layers are given and
# from which all other keys of windows are taken.
WINDOWS = {
  'dots1': [SOME, {}, {**SOME, 'sliding_window': None}],
  'gpt_oss': [{}, {'sliding_window': 7}],
  'ministral': [{}, {'sliding_window': 7}],
  'mistral': [{}, {'sliding_window': 7}],
  'mixtral': [{}, {'sliding_window': 7}],
  'qwen2': [{}, SOME, SOME | ON, ON, ON | {'max_window_layers': 9}],
  'qwen2_moe': [{}, SOME, SOME | ON | {'max_window_layers': 3}, ON],
  'qwen3': [{}, SOME, SOME | ON, ON],
  'qwen3_moe': [{}, SOME, SOME | ON, ON],
}
OF_WINDOWS = ('layer_types', 'use_sliding_window', *SOME)


def of_windows(config, changes):
  """How far back each of four layers sees."""
  cls, _ = class_of(config)
  config = {k: v for k, v in config.items() if k not in OF_WINDOWS}
  changes = {'num_hidden_layers': 4, **changes}
  made = make(cls, config | changes)
  types = getattr(made, 'layer_types', None) or ['sliding_attention'] * 4
  windows = [
    (made.sliding_window or 0) if one == 'sliding_attention' else 0
    for one in types
  ]
  return {
    'family': config['model_type'],
    'changes': changes,
    'windows': windows,
  }


def main():
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument('folder', type=pathlib.Path)
  flags.add_argument('names', nargs='*')
  args = flags.parse_args()
  logging.disable(logging.CRITICAL)
  torch.set_num_threads(1)
  args.folder.mkdir(parents=True, exist_ok=True)
  configs = {
    path.parent.name: json.loads(path.read_text())
    for path in sorted(GOLDEN.glob('*/config.json'))
  }
  for name, config in configs.items():
    if class_of(config)[0] is None or (args.names and name not in args.names):
      continue
    write(args.folder / f'{name}.json', of_family(config))
    sys.stdout.write(f'{name}\n')
  cases = [
    of_rotary(configs[name], changes, length)
    for name, cases in CASES.items()
    for changes, lengths in cases
    if name in configs
    for length in lengths
  ]
  write(args.folder / 'rotary.json', cases)
  cases = [
    of_windows(configs[name], changes)
    for name, cases in WINDOWS.items()
    for changes in cases
  ]
  write(args.folder / 'windows.json', cases)


def write(path, found):
  path.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
  main()
