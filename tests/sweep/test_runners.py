"""Sweeps here, as arrays of Slurm and on GKE, with runs that take no time."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from helpers import far, scripts, sweeping

from moejax.core import exits
from moejax.sweep import slurm, xpk

A, B, C, D = sweeping.NAMES


@pytest.fixture
def place(tmp_path, monkeypatch):
  return sweeping.Place(tmp_path, monkeypatch)


def _statuses(place):
  return {name: run['status'] for name, run in place.results().items()}


def test_a_second_start_trains_what_is_missing(place):
  place.act(**{B: {'codes': [2, 0], 'words': 'error: no text here'}})
  code, out, err = place.call()
  assert code == exits.STOPPED
  assert f'1 of 4 runs failed: {B}' in err[-1]
  log = place.workdir / B / 'log.txt'
  assert f'- {B} failed: no text here ({log})' in out
  results = (place.workdir / 'results.md').read_text()
  assert f'- {B} failed: no text here ({log})' in results
  code, out, _ = place.call()
  assert (code, out[0][:38]) == (
    exits.DONE,
    'Sweep mine: 4 runs, 3 of them finished',
  )
  assert [place.tries(name) for name in (A, B, C, D)] == [1, 2, 1, 1]
  assert 'Not finished' not in (place.workdir / 'results.md').read_text()


def test_retry_tries_again_what_that_may_mend(place):
  place.act(**{A: {'codes': [1, 1, 0]}, B: {'codes': [1]}, C: {'codes': [2]}})
  code, out, _ = place.call('--retry=2')
  assert code == exits.STOPPED
  assert [place.tries(name) for name in (A, B, C, D)] == [3, 3, 1, 1]
  assert [line for line in out if line.startswith(f'{A}: ')][1].endswith(
    'it is tried again'
  )
  assert _statuses(place)[A] == 'finished'


def test_an_index_trains_one_run_and_ends_as_it_does(place):
  place.act(**{C: {'codes': [75], 'words': 'interrupted: at step 3'}})
  assert place.call('--index=1')[0] == exits.DONE
  assert place.call('--index=2')[0] == exits.INTERRUPTED
  assert [place.tries(name) for name in (A, B, C, D)] == [0, 1, 1, 0]
  assert place.call('--index=1')[:2] == (exits.DONE, [f'{B}: finished before'])
  code, out, _ = place.call('--table')
  assert code == exits.DONE
  assert _statuses(place) == {
    A: 'not run', B: 'finished', C: 'interrupted', D: 'not run',
  }  # fmt: skip
  assert [place.tries(name) for name in (A, B, C, D)] == [0, 1, 1, 0]


# Notes the script that it is given, or refuses it.
SBATCH = """#!/usr/bin/env bash
if [[ -n ${REFUSES:-} ]]; then echo 'invalid partition' >&2; exit 1; fi
here="$(dirname "$0")/.."
cat "${@: -1}" > "$here/submitted"
echo '77;cluster'
"""
# In place of a node: notes the words of the task, and ends as is asked.
SRUN = """#!{python} -IS
import json, os, pathlib, sys
here = pathlib.Path(__file__).parents[1]
(here / 'words').write_text(json.dumps(sys.argv[1:]))
(here / 'place').write_text(os.getcwd())
sys.exit(int((here / 'code').read_text()))
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$(dirname "$0")/../requeued"\n'


@pytest.fixture
def cluster(place, monkeypatch):
  """A PATH of harmless programs, sbatch, srun and scontrol."""
  scripts.make_place(place.folder)
  scripts.program(place.folder, 'sbatch', SBATCH)
  scripts.program(place.folder, 'srun', SRUN.format(python=sys.executable))
  scripts.program(place.folder, 'scontrol', SCONTROL)
  monkeypatch.setenv('PATH', str(place.folder / 'bin'))
  return place


def _task(place, index, code=0, restarts=0):
  """Runs the submitted script as a task of the array; srun ends with `code`.

  Returns:
    The exit code of the script, and the words that srun got.
  """
  (place.folder / 'code').write_text(str(code))
  done = subprocess.run(
    ['bash', place.folder / 'submitted'],
    env={
      'PATH': os.environ['PATH'],
      'SLURM_ARRAY_TASK_ID': str(index),
      'SLURM_JOB_ID': f'77{index}',
      'SLURM_RESTART_COUNT': str(restarts),
    },
    check=False,
  )
  return done.returncode, json.loads((place.folder / 'words').read_text())


def test_a_whole_sweep_passes_through_slurm(cluster):
  assert cluster.call('--index=1')[0] == exits.DONE
  code, out, _ = cluster.call(
    '--runner=slurm', '--processes=2', '--sbatch=--partition=gpu --time=1:00'
  )
  assert code == exits.DONE
  assert out[0].startswith('Submitted 3 runs as job 77, 2 at a time.')
  assert out[1].endswith(f'{shlex.join(cluster.words())} --table')
  text = (cluster.folder / 'submitted').read_text()
  options = [
    line.removeprefix('#SBATCH ')
    for line in text.splitlines()
    if line.startswith('#SBATCH')
  ]
  assert '--array=0,2-3%2' in options
  assert {'--partition=gpu', '--time=1:00', '--requeue'} <= {*options}
  for index in (0, 2, 3):
    code, words = _task(cluster, index)
    assert code == 0
    start = words.index('moejax.cli.sweep')
    assert words[start - 2 : start] == [sys.executable, '-m']
    assert words[-1] == f'--index={index}'
    # The task, here.
    assert cluster.call(*words[start + 3 :])[0] == exits.DONE
  assert cluster.call('--table', '--runner=slurm')[0] == exits.DONE
  assert {*_statuses(cluster).values()} == {'finished'}
  code, _, err = cluster.call('--runner=slurm')
  assert code == exits.BAD_INPUT
  assert 'all chosen runs are finished' in err[0]


@pytest.mark.parametrize(
  ('code', 'restarts', 'queued', 'ends'),
  [(0, 0, False, 0), (2, 0, False, 2), (75, 0, True, 0), (143, 9, True, 0),
   (75, 100, False, 75)],
)  # fmt: skip
def test_a_task_that_was_interrupted_queues_itself(
  cluster, code, restarts, queued, ends
):
  cluster.call('--runner=slurm')
  assert _task(cluster, 3, code, restarts)[0] == ends
  path = cluster.folder / 'requeued'
  assert path.exists() == queued
  if queued:
    assert path.read_text() == 'requeue 773\n'


def test_slurm_shows_its_script_and_submits_nothing(place, monkeypatch):
  monkeypatch.setenv('PATH', '')
  code, out, _ = place.call('--runner=slurm', '--dry_run', '--only=' + C)
  assert code == exits.DONE
  assert out[0] == '#!/usr/bin/env bash'
  assert '#SBATCH --array=2%1' in out
  assert not place.workdir.exists()
  # Without a dry run it says what it lacks.
  code, out, err = place.call('--runner=slurm')
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert 'sbatch, which is not on the PATH' in line
  assert '--dry_run' in line


def test_what_sbatch_refuses_is_one_line(cluster, monkeypatch):
  monkeypatch.setenv('REFUSES', '1')
  code, _, err = cluster.call('--runner=slurm')
  assert code == exits.BAD_INPUT
  (line,) = err
  assert 'invalid partition' in line


def test_the_script_of_an_array_is_bash_with_blanks_in_its_paths(
  tmp_path, monkeypatch
):
  folder = tmp_path / '100% my runs'
  folder.mkdir()
  monkeypatch.chdir(folder)
  words = ['--sweep=my sweep.py', "--config.data.files=it's/*.txt"]
  text = slurm.script('mine', 'work', words, [0], 1)
  place = scripts.make_place(tmp_path)
  scripts.program(place, 'srun', SRUN.format(python=sys.executable))
  (tmp_path / 'code').write_text('0')
  (tmp_path / 'job').write_text(text)
  env = {'PATH': str(tmp_path / 'bin'), 'SLURM_ARRAY_TASK_ID': '0'}
  subprocess.run(['bash', tmp_path / 'job'], env=env, check=True)
  words_there = json.loads((tmp_path / 'words').read_text())
  assert words_there[-3:] == [*words, '--index=0']
  assert (tmp_path / 'place').read_text() == str(folder)
  output = f'"{tmp_path}/100%% my runs/work/slurm-%A-%a.log"'
  assert f'#SBATCH --output={output}' in text


def test_indices_as_sbatch_takes_them():
  assert slurm.array([7, 0, 1, 2, 5, 8]) == '0-2,5,7-8'
  assert slurm.array([3]) == '3'


@pytest.fixture
def cloud(place, monkeypatch):
  """An environment file of tpu_scripts, and a PATH of harmless programs."""
  scripts.make_place(place.folder)
  example = (scripts.SCRIPTS / 'env.example.sh').read_text()
  (place.folder / 'env.sh').write_text(example)
  monkeypatch.setenv('MOEJAX_ENV', str(place.folder / 'env.sh'))
  monkeypatch.setenv('PATH', str(place.folder / 'bin'))
  far.store(monkeypatch, place.folder / 'gs')
  place.workdir = 'gs://bucket/mine'
  return place


def test_xpk_shows_a_workload_for_each_run(cloud):
  code, out, err = cloud.call('--runner=xpk', '--dry_run', f'--only={A},{D}')
  assert (code, err) == (exits.DONE, [])
  first, last = map(shlex.split, out)
  assert last[:3] == ['xpk', 'workload', 'create']
  assert '--workload=mine-0' in first
  assert '--workload=mine-3' in last
  assert '--restart-on-exit-codes=4,6,75' in last
  assert last[-1] == (
    '--command=python -m moejax.main --config=tiny:tiny '
    f'--workdir=gs://bucket/mine/{D} '
    '--config.train.watchdog_exits=true --config.seed=3 --config.train.steps=3'
  )


def test_xpk_says_which_workload_could_not_be_made(cloud):
  program = '#!/usr/bin/env bash\n[[ "$*" != *mine-2* ]] || exit 9\necho "$4"\n'
  scripts.program(cloud.folder, 'xpk', program)
  code, _, err = cloud.call('--runner=xpk')
  assert code == exits.BAD_INPUT
  (line,) = err
  assert f'xpk.sh run failed for run {C!r}' in line


def test_slurm_needs_a_disk(cloud):
  code, _, err = cloud.call('--runner=slurm', '--dry_run')
  assert code == exits.BAD_INPUT
  assert 'need a folder on a disk that all nodes see' in err[0]


def test_names_of_workloads_and_configs():
  assert xpk.workload('My_routers', 3) == 'my-routers-3'
  assert xpk.workload('2b', 0) == 'sweep-2b-0'
  assert len(xpk.workload(50 * 'x', 12)) == 40
  zoo = str(scripts.ROOT / 'configs' / 'hf' / 'continue.py')
  assert xpk.config_in_image(f'{zoo}:/a/b.c') == 'hf/continue:/a/b.c'
  assert xpk.config_in_image('configs/zoo.py') == 'zoo'
  assert xpk.config_in_image('/mine/own.py:x') == '/mine/own.py:x'


BAD = [
  (['--runner=slurn'], "unknown runner in --runner 'slurn'; did you mean 'sl"),
  (['--dry_run'], '--dry_run has no effect with --runner=local: leave it out'),
  (['--sbatch=--time=1'], '--sbatch has no effect with --runner=local'),
  (['--runner=xpk', '--processes=2'], '--processes has no effect with'),
  (['--index=4'], '--index=4: the sweep has 4 runs, 0 to 3'),
  (['--index=1', '--list'], '--list and --index contradict each other'),
  (['--index=1', '--processes=2'], 'leave --processes out'),
  (['--runner=xpk'], 'the pods do not see this disk'),
  (['--runner=slurm', '--sbatch=-p gpu'], "'gpu' is no option"),
  (['--runner=slurm', "--sbatch='"], 'No closing quotation'),
  (['--retry=-1'], '--retry=-1 must be 0 or more'),
]


@pytest.mark.parametrize(('flags', 'message'), BAD)
def test_bad_flags_get_one_line(place, flags, message):
  code, out, err = place.call(*flags)
  assert (code, out) == (exits.BAD_INPUT, [])
  (line,) = err
  assert message in line


def test_xpk_without_an_environment_file_is_one_line(cloud, monkeypatch):
  monkeypatch.setenv('MOEJAX_ENV', '/nowhere/env.sh')
  code, _, err = cloud.call('--runner=xpk', '--dry_run')
  assert code == exits.BAD_INPUT
  (line,) = err
  assert 'env.example.sh' in line
