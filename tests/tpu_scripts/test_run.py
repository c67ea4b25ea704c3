"""What `run.sh` and the Slurm job do as machines come and go.

The gcloud here is a fake that answers from a list.
"""

import json
import subprocess
import sys

import pytest
from helpers.scripts import ROOT, program, run, shown

# Appends what it is given to calls.jsonl; `describe` and `docker wait` answer
# with the next line of a file each, the last one for ever, and so do `create`
# and `delete` where there is such a file.
FAKE_GCLOUD = """#!{python} -IS
import json, pathlib, sys
here = pathlib.Path(__file__).parents[1]
with open(here / 'calls.jsonl', 'a') as f:
  f.write(json.dumps(sys.argv[1:]) + '\\n')
def answer(name):
  lines = (here / name).read_text().splitlines()
  if len(lines) > 1:
    (here / name).write_text('\\n'.join(lines[1:]))
  return lines[0]
text = ''
if 'describe' in sys.argv:
  text = answer('states')
elif (here / sys.argv[4]).exists():
  text = answer(sys.argv[4])
elif sys.argv[-1].endswith('docker wait moejax'):
  text = answer('codes')
if text.startswith('ERROR'):
  print(text, file=sys.stderr)
  sys.exit(1)
print(text)
"""


def test_without_gcloud_run_says_so(place):
  done = run(place, 'run.sh')
  assert done.returncode == 2
  assert done.stderr == 'error: no gcloud; install the Google Cloud CLI\n'


def _trains(place, states, codes, more=''):
  """Runs run.sh against a TPU with these states and exit codes.

  Returns:
    Exit code, and what was asked of gcloud, without looks at the state.
  """
  program(place, 'gcloud', FAKE_GCLOUD.format(python=sys.executable))
  (place / 'states').write_text('\n'.join(states))
  (place / 'codes').write_text('\n'.join(codes))
  done = run(place, 'run.sh', more)
  calls = (place / 'calls.jsonl').read_text().splitlines()
  asked = [_what(json.loads(call)) for call in calls]
  return done, [what for what in asked if what != 'describe']


def _what(call):
  """The verb; of ssh what is done there."""
  verb = call[3]
  if verb != 'ssh':
    return verb
  for what in ('pull', 'docker wait', 'docker stop', 'docker run'):
    if what in call[-1]:
      return what.removeprefix('docker ')
  raise ValueError(call)


ABSENT = 'ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: no'
TURN = ['pull', 'run', 'wait']


def test_run_goes_from_nothing_to_the_end_over_a_preemption(place):
  done, asked = _trains(
    place,
    [
      *[ABSENT, 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'],
      # Preempted while training: the host answers no more.
      *['SUSPENDING', 'SUSPENDED', ABSENT, 'ACTIVE'],
      # Interrupted, on a TPU that is still there; then to the end.
      *['ACTIVE', 'ACTIVE'],
    ],
    ['ERROR: connection refused', '75', '0'],
  )
  assert done.returncode == 0, done.stderr
  assert asked == [
    *['create', *TURN],
    *['delete', 'create', *TURN],
    *['stop', *TURN],
  ]
  assert 'finished' in done.stdout
  assert 'exit code unknown, the TPU is SUSPENDING: again' in done.stdout
  assert 'exit code 75, the TPU is ACTIVE: again' in done.stdout


def test_run_recreates_a_preempted_vm(place):
  done, asked = _trains(
    place, ['PREEMPTED', ABSENT, 'READY'], ['0'], 'TPU_AS=vm'
  )
  assert done.returncode == 0
  assert asked == ['delete', 'create', *TURN]


def test_run_finds_what_is_running(place):
  done, asked = _trains(place, ['ACTIVE'], ['0'])
  assert done.returncode == 0
  assert asked == TURN


@pytest.mark.parametrize('code', ['1', '2', '3'])
def test_run_stops_at_what_trying_again_does_not_mend(place, code):
  done, asked = _trains(place, ['ACTIVE'], [code])
  assert done.returncode == int(code)
  assert asked == TURN


@pytest.mark.parametrize('code', ['4', '6', '75', '137', '', 'ERROR'])
def test_run_tries_again_what_that_mends(place, code):
  done, asked = _trains(place, ['ACTIVE'], [code, '0'])
  assert done.returncode == 0
  assert asked == [*TURN, 'stop', *TURN]


def test_a_bug_on_a_tpu_that_went_away_may_be_none(place):
  states = ['ACTIVE', 'SUSPENDED', 'SUSPENDED', ABSENT, 'ACTIVE']
  done, asked = _trains(place, states, ['1', '0'])
  assert done.returncode == 0
  assert asked == [*TURN, 'delete', 'create', *TURN]


def test_run_gives_up_in_the_end(place):
  done, asked = _trains(place, ['ACTIVE'], ['75'], 'RESTARTS=2')
  assert done.returncode == 75
  assert asked == 3 * [*TURN, 'stop']
  assert 'gave up after 2 restarts' in done.stdout


def test_no_answer_is_not_taken_for_no_tpu(place):
  states = ['ERROR: no network', 'ACTIVE']
  done, asked = _trains(place, states, ['0'])
  assert done.returncode == 0
  assert asked == TURN
  assert 'no network' in done.stderr
  done, _ = _trains(place, ['ERROR: no network'], ['0'], 'RESTARTS=3')
  assert done.returncode == 75


def test_a_create_that_fails_ends_the_run_at_first_only(place):
  (place / 'create').write_text('ERROR: no such zone\n')
  done, asked = _trains(place, [ABSENT], ['0'])
  assert done.returncode == 1
  assert asked == ['create']
  assert 'no such zone' in done.stderr
  (place / 'create').write_text('made\nERROR: try later\nmade\n')
  (place / 'delete').write_text('ERROR: try later\ndeleted\n')
  (place / 'calls.jsonl').unlink()
  done, asked = _trains(
    place,
    [ABSENT, 'SUSPENDED', 'SUSPENDED', ABSENT, ABSENT, 'ACTIVE'],
    ['0'],
  )
  assert done.returncode == 0, done.stderr
  assert asked == [
    *['create', 'delete', 'delete'],
    *['create', 'create', *TURN],
  ]


def test_the_scripts_that_run_calls_have_the_same_names(place):
  _trains(place, [ABSENT, 'ACTIVE'], ['0'], 'NAME=other')
  for line in (place / 'calls.jsonl').read_text().splitlines():
    assert 'other' in json.loads(line), line


# Says which containers run, and notes all else, a word a line.
DOCKER = """#!/usr/bin/env bash
here="$(dirname "$0")/.."
if [[ $1 == ps ]]; then cat "$here/running"; exit; fi
for word in "$@"; do echo "$word"; done >> "$here/docker"
echo --- >> "$here/docker"
"""


@pytest.mark.parametrize('running', [True, False])
def test_what_starts_the_training_leaves_a_running_one_alone(place, running):
  more = "FLAGS=('--config.data.files=/my texts/*.txt')"
  start = shown(place, 'run.sh', more)[3][-1].removeprefix('--command=')
  program(place, 'sudo', '#!/usr/bin/env bash\n"$@"\n')
  program(place, 'docker', DOCKER)
  (place / 'running').write_text('4d3f\n' if running else '')
  subprocess.run(
    ['bash', '-c', start], env={'PATH': str(place / 'bin')}, check=True
  )
  if running:
    assert not (place / 'docker').exists()
    return
  removed, ran, _ = (place / 'docker').read_text().split('---\n')
  assert removed.split() == ['rm', 'moejax']
  words = ran.splitlines()
  image = words.index('registry.example/my-project/moejax-tpu:1')
  assert words[image + 1 :] == [
    'python',
    '-m',
    'moejax.main',
    '--config=configs/ds_16b.py',
    '--workdir=gs://my-bucket/ds_16b',
    '--config.data.files=/my texts/*.txt',
  ]
  assert '--net=host' in words[:image]


@pytest.mark.parametrize(
  ('code', 'restarts', 'queued', 'ends'),
  [
    (0, 0, False, 0),
    (2, 0, False, 2),
    (75, 0, True, 0),
    (6, 99, True, 0),
    (137, 0, True, 0),
    (75, 100, False, 75),
  ],
)
def test_a_slurm_job_queues_itself_again(place, code, restarts, queued, ends):
  program(place, 'srun', f'#!/usr/bin/env bash\nexit {code}\n')
  program(
    place, 'scontrol', f'#!/usr/bin/env bash\necho "$@" > "{place}/queued"\n'
  )
  environment = {
    'SLURM_JOB_ID': '7',
    'SLURM_RESTART_COUNT': str(restarts),
    'SLURM_SUBMIT_DIR': str(ROOT),
  }
  done = run(place, 'slurm_gpu.sbatch', environment=environment)
  assert done.returncode == ends, done.stderr
  assert (place / 'queued').exists() == queued
  if queued:
    assert (place / 'queued').read_text() == 'requeue 7\n'
