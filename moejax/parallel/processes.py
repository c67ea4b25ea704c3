"""Start and end of a run of several processes, where JAX's service falls short.

A run that cannot go on says why in one line, at once. This file adds what the
coordination service of JAX 0.10.2 was measured to lack for that, by a channel
(a TCP connection) from each process to process 0:

  - A process does not start. The service stores nothing before all have
    registered, and aborts all with a C++ stack. Here all meet before JAX
    starts; they name who is missing, or differs in its code or config.
  - A process is killed. The service notices at its heartbeat timeout; a channel
    closes at once.
  - A process is lost. Clients of the service abort with a C++ stack; a callback
    in Python ends in std::bad_cast. Here all end with a line that names it.
  - A process has an error. It sends its line, and all end with that line.

A process that sees a loss tells process 0, and process 0 tells all. Barriers,
shared values and the step to stop after use the service: `parallel/group.py`.
"""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

from moejax.core import errors, exits
from moejax.parallel.group import Place

Say = Callable[[str], None]
_wait: Callable[[list[Any], float], list[Any]] = connection.wait
RETRY_S, SEND_S = 0.2, 10  # between tries to connect; longest send or receive
LONGEST = 1 << 20  # longest message, in bytes; anything longer is not ours
GRACE_S = 1.5  # after another's error: time to fail by an own, clearer error
LEAVE_S = 5.0  # process 0, which runs the service, waits for others to leave


class Channel:
  """One end of a connection with process 0; messages are dictionaries."""

  def __init__(self, sock: socket.socket):
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
      sock.setsockopt(socket.SOL_SOCKET, option, struct.pack('ll', SEND_S, 0))
    self._connection = connection.Connection(sock.detach())
    self._lock = threading.Lock()
    self.fileno, self.close = self._connection.fileno, self._connection.close
    self.heard = time.monotonic()

  def send(self, **message: Any) -> None:
    """Sends a message; if the channel is closed, only `receive` says so."""
    with self._lock, contextlib.suppress(OSError):
      self._connection.send_bytes(json.dumps(message).encode())

  def receive(self) -> dict[str, Any] | None:
    """The next message; None if the channel is closed, or it is not ours."""
    try:
      message = json.loads(self._connection.recv_bytes(LONGEST))
    except (EOFError, OSError, ValueError):
      return None
    self.heard = time.monotonic()
    return message if isinstance(message, dict) else None


class _Rendezvous:
  """The processes that have come to process 0: their hosts and channels."""

  def __init__(self, place: Place, about: dict[str, str], say: Say):
    self._place, self._about, self._say = place, about, say
    self._began = time.monotonic()
    self.hosts = {0: socket.gethostname()}
    self.channels: dict[Channel, int] = {}  # its process; 0: not yet known

  def take_in(self, listener: socket.socket, join_s: float) -> None:
    """Admits processes until all have come or `join_s` seconds are over."""
    until, count = self._began + join_s, self._place.count
    while len(self.hosts) < count and (left := until - time.monotonic()) > 0:
      for end in _wait([listener, *self.channels], left):
        if end is listener:
          self.channels[Channel(listener.accept()[0])] = 0
        else:
          self._hear(end)

  def tell(self, **message: Any) -> None:
    for channel in self.channels:
      channel.send(**message)

  def _hear(self, channel: Channel) -> None:
    message, index = channel.receive(), self.channels[channel]
    if message is not None and index == 0:
      message = self._admit(channel, message)
    if message is None:
      channel.close()
      del self.channels[channel]
      if index:
        host = self.hosts.pop(index)
        self._say(f'Process {index} ({host}) has gone again.')

  def _admit(self, channel: Channel, hello: dict[str, Any]) -> Any:
    """The first message of a process; None if the process is turned away."""
    count = self._place.count
    match hello:
      case {'hello': int(index), 'host': str(host), 'about': dict(about)}:
        pass
      case _:
        return None  # another program has connected to the port
    if not 0 < index < count or index in self.hosts:
      other = self.hosts.get(index, f'there are {count}')
      channel.send(
        refused=f'--process-id={index} is taken ({other}); every process needs '
        f'its own, from 0 to {count - 1}'
      )
      return None
    if different := ', '.join(
      f'{key} is {about.get(key)} there and {value} here'
      for key, value in self._about.items()
      if about.get(key) != value
    ):
      line = (
        f'process {index} ({host}) does not fit process 0: {different}; start '
        'all with the same command, code and packages'
      )
      self.tell(refused=line)
      raise errors.InputError(line)
    self.channels[channel], self.hosts[index] = index, host
    after = f'{time.monotonic() - self._began:.1f} s'
    self._say(f'Process {index} of {count} ({host}) has come after {after}.')
    return hello


class Members(NamedTuple):
  """The processes that have met."""

  number: int  # of this process
  names: list[str]  # 'process 1 (node1)'
  channels: dict[int, Channel]  # of process 0 to all, of the others to it


def meet(
  place: Place, join_s: float, about: dict[str, str], say: Say
) -> Members:
  """Waits until all processes have come, for at most `join_s` seconds.

  `about` (code, config, packages) must be equal in all processes. In process 0
  `say` takes a line for each that comes.

  Raises:
    LostHostError: in every process; names those that have not come.
    InputError: a process differs in `about`, or the port is taken.
  """
  if place.index:
    return _knock(place, join_s, about)
  (_, port), count, where = place.address, place.count, place.coordinator
  rendezvous = _Rendezvous(place, about, say)
  hosts = rendezvous.hosts
  say(f'Process 0 of {count} ({hosts[0]}) waits for the others at {where}.')
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    listener = socket.create_server(
      ('', port), family=family, backlog=1024, dualstack_ipv6=dual
    )
  except OSError as e:
    raise errors.InputError(
      f'--coordinator={where}: port {port} cannot be opened here '
      f'({e.strerror or e}); choose another port'
    ) from None
  with listener:
    rendezvous.take_in(listener, join_s)
  if missing := sorted({*range(count)} - hosts.keys()):
    line = (
      f'after {join_s:g} s process {", ".join(map(str, missing))} of {count} '
      f'had not come to {where}; there were: '
      + ', '.join(f'{i} ({hosts[i]})' for i in sorted(hosts))
    )
    rendezvous.tell(lost=line)
    raise errors.LostHostError(line)
  names = [f'process {i} ({hosts[i]})' for i in range(count)]
  rendezvous.tell(welcome=names)
  return Members(0, names, {i: c for c, i in rendezvous.channels.items() if i})


def _knock(place: Place, join_s: float, about: dict[str, str]) -> Members:
  """Tries to connect to process 0, and waits for its answer; as `meet`."""
  until = time.monotonic() + join_s
  while (left := until - time.monotonic()) > 0:
    try:
      sock = socket.create_connection(place.address, min(left, SEND_S))
    except OSError:  # not yet there, or its name not yet known
      time.sleep(min(RETRY_S, left))
      continue
    if sock.getsockname() == sock.getpeername():
      sock.close()  # TCP may connect a free port of this machine to itself
      continue
    channel = Channel(sock)
    channel.send(hello=place.index, host=socket.gethostname(), about=about)
    # Process 0 may have begun to wait later, and needs time to say who is lost.
    left = until + GRACE_S - time.monotonic()
    match channel.receive() if _wait([channel], left) else None:
      case {'refused': line}:
        raise errors.InputError(line)
      case {'lost': line}:
        raise errors.LostHostError(line)
      case {'welcome': names}:
        return Members(place.index, names, {0: channel})
    channel.close()
    time.sleep(RETRY_S)  # process 0 may be started anew
  raise errors.LostHostError(
    f'after {join_s:g} s process 0 of {place.count} had not come: nobody '
    f'answers process {place.index} at {place.coordinator}'
  )


class Watch:
  """A thread that ends this process with one line when another one is lost.

  Args:
    members: the processes.
    silence_s: seconds of silence after which a process is taken for lost.
    leave: called with a line and an exit code; it ends this process.
  """

  def __init__(
    self, members: Members, silence_s: float, leave: Callable[[str, int], None]
  ):
    self._names, self._channels = members.names, members.channels
    self._index, self._silence_s, self._leave = members.number, silence_s, leave
    self._watched = {*members.channels}
    self._ending = threading.Event()
    self._last_word = threading.Lock()  # its holder ends the process
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def fail(self, line: str, code: int) -> None:
    """Tells the others why this process is about to end; they end as well."""
    self._ending.set()
    self._last_word.acquire()
    code = code if code == exits.INTERRUPTED else exits.LOST
    self._tell(lost=f'{self._names[self._index]} stopped: {line}', code=code)
    self._thread.join(LEAVE_S)  # until process 0, or all others, have heard

  def close(self) -> None:
    """Lets each process end when it likes; to be called after a barrier."""
    self._tell(bye=True)

  def _tell(self, **message: Any) -> None:
    for channel in self._channels.values():
      channel.send(**message)

  def _run(self) -> None:
    period = min(5.0, self._silence_s / 5)
    beat_at = awake_at = 0.0
    while self._watched:
      now = time.monotonic()
      if now - awake_at > 2 * period:  # this process itself was suspended
        for channel in self._channels.values():
          channel.heard = now
      awake_at = now
      if now - beat_at >= period:
        self._tell(beat=True)
        beat_at = now
      self._hear(min(period / 2, 0.5))
      for index in [*self._watched]:
        if time.monotonic() - self._channels[index].heard > self._silence_s:
          self._lose(index, f'has been silent for {self._silence_s:g} s')

  def _hear(self, seconds: float) -> None:
    indices = {self._channels[index]: index for index in self._watched}
    for channel in _wait([*indices], seconds):
      match channel.receive():
        case None:
          self._lose(indices[channel], 'was killed, or has crashed')
        case {'bye': _}:
          self._watched.discard(indices[channel])
        case {'lost': line, 'code': code}:
          self._end(line, code, GRACE_S)

  def _lose(self, index: int, how: str) -> None:
    self._watched.discard(index)
    if not self._ending.is_set():
      line = f'{self._names[index]} {how}; the last checkpoint is whole: start '
      self._end(line + 'all processes again', exits.LOST, 0.0)

  def _end(self, line: str, code: int, grace_s: float) -> None:
    """Ends this process, unless it is about to end by an error of its own."""
    if self._index:
      self._watched.clear()
    else:
      self._tell(lost=line, code=code)
    if self._ending.wait(grace_s):
      return
    self._last_word.acquire()  # never released
    self._ending.set()
    until = time.monotonic() + LEAVE_S
    while self._watched and time.monotonic() < until:
      self._hear(0.5)  # until all have left: without process 0 JAX aborts them
    self._leave(line, code)
