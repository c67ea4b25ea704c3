"""The commands that the scripts would run, and what else is read in them."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from helpers.scripts import ROOT, SCRIPTS, run, shown

from moejax.core import exits

NAMES = re.findall(
  r'^([A-Z_]+)=', (SCRIPTS / 'env.example.sh').read_text(), re.MULTILINE
)
TPUS = 'gcloud compute tpus queued-resources'
PLACE = ['--project=my-project', '--zone=us-east5-a']
ALL = ['--worker=all', '--node=all']
FLAG = '--config.train.watchdog_exits=true'


def test_create_asks_for_one_slice(place):
  assert shown(place, 'create.sh') == [
    [
      *f'{TPUS} create moejax'.split(),
      *PLACE,
      '--runtime-version=v2-alpha-tpuv5',
      '--accelerator-type=v5p-128',
      '--spot',
      '--node-id=moejax',
    ]
  ]


def test_create_asks_for_several_slices_and_at_other_prices(place):
  more = 'SLICES=4; PRICE=(--reserved); MORE=(--network=mine)'
  (words,) = shown(place, 'create.sh', more)
  assert words[-4:] == [
    '--reserved',
    '--network=mine',
    '--node-count=4',
    '--node-prefix=moejax',
  ]
  (words,) = shown(place, 'create.sh', 'PRICE=()')
  assert '--spot' not in words


def test_a_plain_vm_has_other_commands(place):
  more = 'TPU_AS=vm; PRICE=()'
  assert shown(place, 'create.sh', more) == [
    [
      *['gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'moejax'],
      *PLACE,
      '--version=v2-alpha-tpuv5',
      '--accelerator-type=v5p-128',
    ]
  ]
  (words,) = shown(place, 'stop.sh', more)
  assert words[3:5] == ['tpu-vm', 'ssh']
  assert '--worker=all' in words
  assert '--node=all' not in words
  (words,) = shown(place, 'delete.sh', more)
  assert words[4:] == ['delete', 'moejax', *PLACE, '--quiet']


def test_the_short_ones(place):
  ssh = [*f'{TPUS} ssh moejax'.split(), *PLACE]
  image = 'registry.example/my-project/moejax-tpu:1'
  assert shown(place, 'setup.sh') == [
    [
      *ssh,
      *ALL,
      '--command=sudo gcloud auth configure-docker registry.example --quiet && '
      f'sudo docker pull --quiet {image} && sudo mkdir -p /var/moejax',
    ]
  ]
  assert shown(place, 'logs.sh') == [
    [
      *ssh,
      '--worker=0',
      '--node=0',
      '--command=sudo docker logs --tail=200 --follow moejax',
    ]
  ]
  assert shown(place, 'stop.sh') == [
    [*ssh, *ALL, '--command=sudo docker stop --time=600 moejax']
  ]
  assert shown(place, 'delete.sh') == [
    [*f'{TPUS} delete moejax'.split(), *PLACE, '--force', '--quiet']
  ]
  dockerfile = str(SCRIPTS / 'tpu.Dockerfile')
  assert shown(place, 'image.sh') == [
    ['docker', 'build', '--file', dockerfile, '--tag', image, str(ROOT)],
    ['docker', 'push', image],
  ]


def test_run_shows_the_straight_way(place):
  commands = shown(place, 'run.sh')
  assert [words[4] for words in commands] == [
    'describe',
    'create',
    'ssh',
    'ssh',
    'ssh',
  ]
  assert commands[1:3] == [
    *shown(place, 'create.sh'),
    *shown(place, 'setup.sh'),
  ]
  assert commands[4][-1] == '--command=sudo docker wait moejax'


def test_xpk(place):
  place_ = [*PLACE, '--cluster=moejax']
  slices = ['--tpu-type=v5p-128', '--num-slices=2']
  more = 'SLICES=2'
  assert shown(place, 'xpk.sh create', more) == [
    ['xpk', 'cluster', 'create', *place_, *slices, '--spot']
  ]
  assert shown(place, 'xpk.sh run', more) == [
    [
      *['xpk', 'workload', 'create', *place_, *slices, '--workload=moejax'],
      '--docker-image=registry.example/my-project/moejax-tpu:1',
      '--max-restarts=100',
      '--restart-on-exit-codes=4,6,75',
      '--termination-grace-period-seconds=600',
      '--command=python -m moejax.main --config=configs/ds_16b.py '
      f'--workdir=gs://my-bucket/ds_16b {FLAG}',
    ]
  ]
  assert shown(place, 'xpk.sh stop') == [
    ['xpk', 'workload', 'delete', *place_, '--workload=moejax']
  ]
  assert shown(place, 'xpk.sh delete') == [
    ['xpk', 'cluster', 'delete', *place_]
  ]
  ((kubectl, *words),) = shown(place, 'xpk.sh logs')
  assert kubectl == 'kubectl'
  assert words[-1] == '--selector=xpk.google.com/workload=moejax'
  done = run(place, 'xpk.sh start --dry-run')
  assert done.returncode == 2
  assert "not 'start'" in done.stderr


def test_the_codes_that_mean_again_are_moejaxs():
  again = {exits.STUCK, exits.LOST, exits.INTERRUPTED}
  text = (SCRIPTS / 'xpk.sh').read_text()
  (codes,) = re.findall(r'--restart-on-exit-codes=([\d,]+)', text)
  assert {int(code) for code in codes.split(',')} == again
  no = {exits.DONE, exits.BUG, exits.BAD_INPUT, exits.STOPPED}
  assert no == {0, 1, 2, 3}  # run.sh and slurm_gpu.sbatch count on it
  assert min(again) > 3


def test_a_missing_environment_file_is_one_line(place):
  done = subprocess.run(
    ['bash', SCRIPTS / 'create.sh'],
    env={'PATH': str(place / 'bin'), 'MOEJAX_ENV': '/nowhere/env.sh'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1
  assert 'env.example.sh' in done.stderr
  done = run(place, 'create.sh', 'TPU_AS=vms')
  assert done.returncode == 2
  assert 'TPU_AS=vms' in done.stderr


def test_slurm_shows_its_command(place):
  assert shown(place, 'slurm_gpu.sbatch') == [
    [
      *['srun', '--kill-on-bad-exit=0', '.venv/bin/python', '-m'],
      *['moejax.main', '--config=configs/ds_16b.py'],
      '--workdir=gs://my-bucket/ds_16b',
      FLAG,
    ]
  ]


def test_every_name_of_the_environment_file_is_used():
  used = ''.join(
    path.read_text()
    for path in SCRIPTS.glob('*.s*')
    if path.name != 'env.example.sh'
  )
  assert len(NAMES) == len(set(NAMES)) > 10
  # Behind a dollar sign, or in an arithmetic comparison.
  found = set(re.findall(r'(?:\$\{?|\(\(|< |<= )([A-Z_]+)', used))
  assert not set(NAMES) - found


def test_scripts_can_be_run():
  for path in [*SCRIPTS.glob('*.sh'), *SCRIPTS.glob('*.sbatch')]:
    sourced = path.name in {'common.sh', 'env.example.sh'}
    assert os.access(path, os.X_OK) != sourced, path


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).with_name('shellcheck')
  shellcheck = shutil.which('shellcheck') or shutil.which(str(beside))
  if shellcheck is None:
    pytest.skip('no shellcheck: pip install -e .[test]')
  paths = sorted([*SCRIPTS.glob('*.sh'), *SCRIPTS.glob('*.sbatch')])
  done = subprocess.run(
    [shellcheck, '--external-sources', *paths],
    cwd=SCRIPTS,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('extra', ['tpu', 'gpu'])
def test_a_dockerfile_copies_what_there_is(extra):
  text = (SCRIPTS / f'{extra}.Dockerfile').read_text()
  for line in re.findall(r'^COPY (.*)$', text, re.MULTILINE):
    for source in line.split()[:-1]:
      assert (ROOT / source).exists(), source
  # Object stores are read by TensorFlow.
  assert f"--editable '.[{extra},seqio]'" in text
  setup = (ROOT / 'setup.cfg').read_text()
  assert re.search(rf'^{extra} = jax\[', setup, re.MULTILINE)
  assert 'FROM python:3.12-' in text
