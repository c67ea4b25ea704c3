"""Which process of a run this is, by flags and by the environment."""

import os
import socket

import pytest

from moejax.core import errors
from moejax.parallel import distributed
from moejax.parallel.distributed import Flags, Place

SLURM = {
  'SLURM_JOB_ID': '17',
  'SLURM_STEP_NODELIST': 'node[3-6],node9',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '2',
  'SLURM_LOCALID': '0',
}
OPEN_MPI = {
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '1',
}


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
  """No cluster, until a test says so."""
  for name in [*os.environ]:
    known = 'SLURM_', 'OMPI_', 'PMI_', 'JAX_', 'KUBERNETES_', 'JOB_'
    if name.startswith(known) and name != 'JAX_PLATFORMS':
      monkeypatch.delenv(name)


def _set(monkeypatch, environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)


def test_alone_without_flags_and_cluster(monkeypatch):
  """And nothing has been asked on the network."""

  def asked(*_):
    raise AssertionError('the network was asked')

  monkeypatch.setattr(socket, 'getaddrinfo', asked)
  monkeypatch.setattr(socket.socket, 'connect', asked)
  assert distributed.find(Flags()) is None


def test_flags():
  flags = Flags('node0:9876', num_processes=4, process_id=3)
  found = distributed.find(flags)
  assert found == Place('node0:9876', 4, 3)
  assert found.address == ('node0', 9876)
  assert Place('[::1]:80', 2, 0).address == ('::1', 80)


def test_one_of_one_is_alone():
  assert distributed.find(Flags('node0:9876', 1, 0)) is None


def test_slurm(monkeypatch):
  _set(monkeypatch, SLURM)
  # The port is JAX's: of the job's number. One process, one device.
  assert distributed.find(Flags()) == Place('node3:61457', 4, 2, (0,))
  assert distributed.find(Flags(detect=False)) is None
  monkeypatch.setenv('SLURM_NTASKS', '1')
  assert distributed.find(Flags()) is None


def test_open_mpi(monkeypatch):
  _set(monkeypatch, OPEN_MPI)
  found = distributed.find(Flags())
  assert (found.count, found.index, found.local_devices) == (2, 1, (1,))
  assert found.address[0] == '10.96.0.1'


@pytest.mark.parametrize(('size', 'rank'), [*distributed.ENVIRONMENTS.values()])
def test_numbers_from_the_environment_with_a_coordinator(
  monkeypatch, size, rank
):
  """As with launchers that do not say where process 0 is."""
  _set(monkeypatch, {size: '8', rank: '5'})
  assert distributed.find(Flags('a:1')) == Place('a:1', 8, 5)
  assert distributed.find(Flags('a:1', process_id=6)) == Place('a:1', 8, 6)


def test_a_coordinator_from_the_environment(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'b:2')
  assert distributed.find(Flags('', 3, 1)) == Place('b:2', 3, 1)


def test_a_pod_that_is_of_no_indexed_job_is_alone(monkeypatch):
  """Where the `kubernetes` package is there, JAX's detection raises."""
  monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.1')

  def raises(*_):
    raise RuntimeError('no controller')

  cluster = distributed.clusters.ClusterEnv
  name = 'auto_detect_unset_distributed_params'
  monkeypatch.setattr(cluster, name, raises)
  assert distributed.find(Flags()) is None
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '0')
  with pytest.raises(errors.InputError, match=r'found \(no controller\); give'):
    distributed.find(Flags())


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (Flags(num_processes=2), '--num-processes and --process-id need --coord'),
    (Flags('a:1'), 'also needs --num-processes and --process-id'),
    (Flags('a:1', 2, 2), '--process-id=2 must be from 0 to 1'),
    (Flags('a:1', 2, -1), '--process-id=-1 must be from 0 to 1'),
    (Flags('a', 2, 0), '--coordinator=a must be host:port'),
    (Flags(':1', 2, 0), 'must be host:port'),
    (Flags('a:99999', 2, 0), 'must be host:port'),
    (Flags(join_s=0), '--join-timeout=0 and --host-timeout=60 must be more'),
  ],
)
def test_flags_that_do_not_fit(flags, message):
  with pytest.raises(errors.InputError, match=message):
    distributed.find(flags)
