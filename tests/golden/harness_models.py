"""A tiny model, its tasks, and what lm-evaluation-harness finds of it.

  python tests/golden/harness_models.py make FOLDER
  python tests/golden/harness_models.py evaluate KIND ARGUMENTS FOLDER OUT

Needs lm_eval[hf] and torch; `evaluate` with the KIND `moejax` needs moejax too.
`make` writes a random OLMoE with a tokenizer and a chat template to FOLDER/hf,
and to FOLDER/tasks a task for each kind of request. `evaluate` writes the
results and the answer to each request as JSON, with and without the template.
"""

import gzip
import json
import os
import pathlib
import random
import sys

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('HF_DATASETS_OFFLINE', '1')

ROOT = pathlib.Path(__file__).parents[2]
SPEECHES = ROOT / 'moejax/data/minipile/speeches-validation.jsonl.gz'
LENGTH = 128  # most tokens of the model
TEMPLATE = (
  "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|endoftext|>\n"
  '{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}'
)
COMMON = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {place}/test.jsonl, train: {place}/train.jsonl}}
test_split: test
"""
SHOTS = """\
fewshot_split: train
num_fewshot: 1
"""
CHOICE = """\
output_type: multiple_choice
doc_to_target: "{{label}}"
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
  - metric: acc_mutual_info
"""
TASKS = {
  'options': SHOTS
  + CHOICE
  + 'doc_to_text: "Q: {{question}}\\nA:"\ndoc_to_choice: "{{choices}}"\n',
  # The answers are one token each, and white space ends the context.
  'letters': CHOICE
  + 'doc_to_text: "{{question}} {{choices}}\\nAnswer: "\n'
  + 'doc_to_choice: ["A", "B", "C"]\ntarget_delimiter: ""\n',
  'sentences': CHOICE + 'doc_to_text: ""\ndoc_to_choice: "{{choices}}"\n',
  'last_word': 'output_type: loglikelihood\n'
  + 'doc_to_text: "{{question}}"\ndoc_to_target: " {{choices[label]}}"\n'
  + 'metric_list: [{metric: acc}, {metric: perplexity}]\n',
  'rolling': 'output_type: loglikelihood_rolling\n'
  + 'doc_to_text: ""\ndoc_to_target: "{{text}}"\n'
  + 'metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n',
  'until': SHOTS
  + 'output_type: generate_until\n'
  + 'doc_to_text: "{{question}} ="\ndoc_to_target: "{{choices[label]}}"\n'
  + 'generation_kwargs: {until: ["\\n", " the", "."], max_gen_toks: 24}\n'
  + 'metric_list: [{metric: exact_match}]\n',
}


def texts():
  """Words of speeches that never change, and spans, some not ASCII."""
  with gzip.open(SPEECHES, 'rt', encoding='utf-8') as rows:
    words = ' '.join(json.loads(row)['text'] for row in rows).split()
  rng = random.Random(0)
  spans = []
  for _ in range(80):
    at, size = rng.randrange(len(words) - 300), rng.choice([4, 9, 20])
    spans.append(' '.join(words[at : at + size]))
  return words, [*spans, 'Façade, naïve — “über”', 'Ça va très bien, Zoë']


def rows():
  """Rows with a question, options and a text, short and long."""
  words, spans = texts()
  rng = random.Random(1)
  found = []
  for index in range(24):
    at = rng.randrange(len(words) - 300)
    # Some questions, and some texts, are longer than the model's context.
    size = 150 if index % 8 == 7 else rng.randrange(3, 25)
    found.append({
      'question': ' '.join(words[at : at + size]),
      'choices': rng.sample(spans, 3),
      'label': rng.randrange(3),
      'text': ' '.join(words[at : at + rng.choice([5, 40, 250])]),
    })
  return found


def make(folder):
  """Writes the model and the tasks."""
  import tokenizers
  import torch
  import transformers

  place = folder / 'hf'
  inner = tokenizers.ByteLevelBPETokenizer()
  words, spans = texts()
  inner.train_from_iterator(
    [' '.join(words), *spans],
    vocab_size=700,
    special_tokens=['<|endoftext|>', '<|user|>', '<|assistant|>'],
    show_progress=False,
  )
  wrapped = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner._tokenizer, eos_token='<|endoftext|>'
  )
  wrapped.chat_template = TEMPLATE
  wrapped.save_pretrained(place)
  torch.manual_seed(0)
  config = transformers.OlmoeConfig(
    vocab_size=len(wrapped),
    hidden_size=48,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=LENGTH,
    eos_token_id=wrapped.eos_token_id,
    pad_token_id=None,
    initializer_range=0.2,
  )
  model = transformers.OlmoeForCausalLM(config).float()
  model.save_pretrained(place)
  tasks = folder / 'tasks'
  tasks.mkdir()
  drawn = rows()
  for split, own in (('test', drawn[:16]), ('train', drawn[16:])):
    lines = [json.dumps(row) + '\n' for row in own]
    (tasks / f'{split}.jsonl').write_text(''.join(lines))
  for name, text in TASKS.items():
    common = COMMON.format(name=name, place=tasks)
    (tasks / f'{name}.yaml').write_text(common + text)


def evaluate(kind, arguments, folder, out):
  """Writes {'plain': ..., 'chat': ...}: results and answers of all tasks."""
  import lm_eval
  from lm_eval.tasks import TaskManager

  if kind == 'moejax':
    from moejax.run import harness

    harness.register()
  found = {}
  for name, tasks in {
    'plain': [*TASKS],
    'chat': ['options', 'letters', 'until'],
  }.items():
    done = lm_eval.simple_evaluate(
      model=kind,
      model_args=arguments,
      tasks=tasks,
      batch_size=4,
      device='cpu',
      apply_chat_template=name == 'chat',
      fewshot_as_multiturn=name == 'chat',
      task_manager=TaskManager(
        include_path=str(folder / 'tasks'), include_defaults=False
      ),
      bootstrap_iters=0,
    )
    found[name] = {
      'results': done['results'],
      'answers': {
        task: [sample['resps'] for sample in samples]
        for task, samples in done['samples'].items()
      },
      'prompts': {
        task: [sample['arguments'] for sample in samples]
        for task, samples in done['samples'].items()
      },
    }
  out.write_text(json.dumps(found, default=str))


if __name__ == '__main__':
  command, *words = sys.argv[1:]
  if command == 'make':
    make(pathlib.Path(words[0]))
  else:
    evaluate(words[0], words[1], pathlib.Path(words[2]), pathlib.Path(words[3]))
