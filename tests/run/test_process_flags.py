"""Which process of a run this is, by flags and by the environment."""

import os
import socket

import pytest
from jax._src.clusters import cloud_tpu_cluster

from moejax.core import errors
from moejax.parallel import group
from moejax.parallel.group import Place
from moejax.run import processes
from moejax.run.processes import Flags

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
    tpus = 'TPU_', 'MEGASCALE_'
    if name.startswith(known + tpus) and name != 'JAX_PLATFORMS':
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
  assert processes.find(Flags()) is None


def test_flags():
  flags = Flags('node0:9876', num_processes=4, process_id=3)
  found = processes.find(flags)
  assert found == Place('node0:9876', 4, 3)
  assert found.address == ('node0', 9876)
  assert Place('[::1]:80', 2, 0).address == ('::1', 80)


def test_one_of_one_is_alone():
  assert processes.find(Flags('node0:9876', 1, 0)) is None


def test_slurm(monkeypatch):
  _set(monkeypatch, SLURM)
  # The port is JAX's: of the job's number. One process, one device.
  assert processes.find(Flags()) == Place('node3:61457', 4, 2, (0,))
  assert processes.find(Flags(detect=False)) is None
  monkeypatch.setenv('SLURM_NTASKS', '1')
  assert processes.find(Flags()) is None


def test_open_mpi(monkeypatch):
  _set(monkeypatch, OPEN_MPI)
  found = processes.find(Flags())
  assert (found.count, found.index, found.local_devices) == (2, 1, (1,))
  assert found.address[0] == '10.96.0.1'


def _on_a_tpu_vm(monkeypatch, metadata):
  """As JAX sees a TPU VM: what its metadata server says, and every host."""
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  say = lambda key: (metadata[key], 200) if key in metadata else ('', 404)
  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', say)
  monkeypatch.setattr(socket, 'gethostbyname', lambda host: host)


ENDPOINTS = 'a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3,d:4:10.0.0.4'


@pytest.mark.parametrize(
  'endpoints', [ENDPOINTS, '10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4']
)
def test_tpu_vms_of_one_slice(monkeypatch, endpoints):
  """No flag is given: the machine's metadata tells, in either form."""
  metadata = {'worker-network-endpoints': endpoints, 'tpu-env': 'ZONE: x'}
  _on_a_tpu_vm(monkeypatch, {**metadata, 'agent-worker-number': '2'})
  assert processes.find(Flags()) == Place('10.0.0.1:8482', 4, 2)
  assert processes.find(Flags(detect=False)) is None


def test_one_tpu_vm_is_alone(monkeypatch):
  metadata = {'worker-network-endpoints': '10.0.0.1', 'tpu-env': ''}
  _on_a_tpu_vm(monkeypatch, {**metadata, 'agent-worker-number': '0'})
  assert processes.find(Flags()) is None


def test_tpu_vms_of_several_slices(monkeypatch):
  """Numbers go through the slices; process 0 is in the first."""
  slices = (
    "MEGASCALE_COORDINATOR_ADDRESS: '10.9.0.1:8080'\n"
    "MEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
  )
  metadata = {'worker-network-endpoints': ENDPOINTS, 'tpu-env': slices}
  _on_a_tpu_vm(monkeypatch, {**metadata, 'agent-worker-number': '1'})
  assert processes.find(Flags()) == Place('10.9.0.1:8482', 12, 9)
  for name, value in [('NUM_SLICES', '2'), ('SLICE_ID', '1')]:
    monkeypatch.setenv(f'MEGASCALE_{name}', value)  # that comes first
  assert processes.find(Flags()) == Place('10.9.0.1:8482', 8, 5)


@pytest.mark.parametrize(
  ('name', 'workers'),
  [
    ('TPU_WORKER_HOSTNAMES', 'job-0.svc,job-1.svc'),
    ('TPU_PROCESS_ADDRESSES', 'job-0.svc:8471,job-1.svc:8471'),
  ],
)
def test_gke_with_tpus(monkeypatch, name, workers):
  _on_a_tpu_vm(monkeypatch, {})
  _set(monkeypatch, {name: workers, 'TPU_WORKER_ID': '1'})
  assert processes.find(Flags()) == Place('job-0.svc:8482', 2, 1)
  slices = {
    'MEGASCALE_COORDINATOR_ADDRESS': 'set-0.svc',
    'MEGASCALE_NUM_SLICES': '2',
    'MEGASCALE_SLICE_ID': '1',
  }
  _set(monkeypatch, slices)
  assert processes.find(Flags()) == Place('set-0.svc:8482', 4, 3)


def test_a_tpu_whose_coordinator_has_no_address(monkeypatch):
  """That is a line with what can be done, after --join-timeout."""
  _on_a_tpu_vm(monkeypatch, {})
  workers = {'TPU_WORKER_HOSTNAMES': 'a,b', 'TPU_WORKER_ID': '1'}
  _set(monkeypatch, workers)

  def unknown(host):
    raise socket.gaierror(host)

  monkeypatch.setattr(socket, 'gethostbyname', unknown)
  monkeypatch.setattr(cloud_tpu_cluster.time, 'sleep', lambda _: None)
  message = r'cannot be found \(Failed to recognize coordinator address a\)'
  with pytest.raises(errors.InputError, match=message):
    processes.find(Flags(join_s=1))


@pytest.mark.parametrize(('size', 'rank'), [*processes.ENVIRONMENTS.values()])
def test_numbers_from_the_environment_with_a_coordinator(
  monkeypatch, size, rank
):
  """As with launchers that do not say where process 0 is."""
  _set(monkeypatch, {size: '8', rank: '5'})
  assert processes.find(Flags('a:1')) == Place('a:1', 8, 5)
  assert processes.find(Flags('a:1', process_id=6)) == Place('a:1', 8, 6)


def test_a_coordinator_from_the_environment(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'b:2')
  assert processes.find(Flags('', 3, 1)) == Place('b:2', 3, 1)


def test_a_pod_that_is_of_no_indexed_job_is_alone(monkeypatch):
  """Where the `kubernetes` package is there, JAX's detection raises."""
  monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.1')

  def raises(*_):
    raise RuntimeError('no controller')

  cluster = group.clusters.ClusterEnv
  name = 'auto_detect_unset_distributed_params'
  monkeypatch.setattr(cluster, name, raises)
  assert processes.find(Flags()) is None
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '0')
  with pytest.raises(errors.InputError, match=r'found \(no controller\); give'):
    processes.find(Flags())


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
    processes.find(flags)
