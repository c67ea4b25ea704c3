"""Where the processes of a run meet, before JAX knows of them.

Process 0 listens on the port that JAX's service will take; the others knock
until it opens. `hello` up, and when all are there `welcome` down, with the
machine of each; or a line that says why not.
"""

import dataclasses
import socket
import time
from collections.abc import Callable
from typing import Any

from moejax.core import errors
from moejax.parallel import group, wire


@dataclasses.dataclass(frozen=True)
class Place:
  """Which process of a run this is, and where process 0 is."""

  coordinator: str
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None

  @property
  def address(self) -> tuple[str, int]:
    """Host and port of process 0."""
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise errors.InputError(
        f'--coordinator={self.coordinator} must be host:port of process 0, '
        'such as node1:9876'
      )
    return host.strip('[]'), int(port)


def receive(
  place: Place, join_s: float, about: dict[str, str], say: Callable[[str], None]
) -> group.Members:
  """Process 0 takes in the others.

  Args:
    place: of this process.
    join_s: how long to wait for all.
    about: what must be the same in all.
    say: shows who comes.

  Raises:
    LostHostError: not all came; it names who did not, here and to the others.
    InputError: one does not fit, or the port is taken.
  """
  port = place.address[1]
  began = time.monotonic()
  name = socket.gethostname()
  say(
    f'Process 0 of {place.count} ({name}) waits for the others at '
    f'{place.coordinator}.'
  )
  try:
    with wire.listening(port) as listener:
      lobby = _Lobby(listener, place, about, say)
      lobby.gather(began + join_s)
  except OSError as e:
    raise errors.InputError(
      f'--coordinator={place.coordinator}: port {port} cannot be opened here '
      f'({e.strerror or e}); choose another port'
    ) from None
  links, names = lobby.links, lobby.names
  missing = [i for i in range(place.count) if i not in names]
  if missing:
    line = (
      f'after {join_s:g} s process {", ".join(map(str, missing))} of '
      f'{place.count} had not come to {place.coordinator}; there were: '
      + ', '.join(f'{i} ({names[i]})' for i in sorted(names))
    )
    lobby.turn_away(line, 'lost')
    raise errors.LostHostError(line)
  hosts = [names[i] for i in range(place.count)]
  for link in links.values():
    link.send({'welcome': hosts})
  return group.Members(0, tuple(hosts), links)


class _Lobby:
  """Where process 0 receives the others."""

  def __init__(
    self,
    listener: socket.socket,
    place: Place,
    about: dict[str, str],
    say: Callable[[str], None],
  ):
    self._listener = listener
    self._place = place
    self._about = about
    self._say = say
    self._began = time.monotonic()
    self._strangers: list[wire.Link] = []  # have said nothing yet
    self.links: dict[int, wire.Link] = {}
    self.names = {0: socket.gethostname()}

  def gather(self, until: float) -> None:
    """Until all are here, or it is too late."""
    while len(self.names) < self._place.count:
      if (left := until - time.monotonic()) <= 0:
        return
      here = [self._listener, *self._strangers, *self.links.values()]
      for one in wire.ready(here, min(left, 1.0)):
        if one is self._listener:
          self._strangers.append(wire.Link(self._listener.accept()[0]))
        else:
          self._hear(one)

  def turn_away(self, line: str, why: str) -> None:
    for link in self.links.values():
      link.send({why: line})

  def _hear(self, link: wire.Link) -> None:
    messages = link.receive()
    if messages is None:
      self._forget(link)
    elif messages and link in self._strangers:
      self._strangers.remove(link)
      self._admit(link, messages[0])

  def _forget(self, link: wire.Link) -> None:
    """One that has gone again: perhaps it is started anew."""
    link.close()
    if link in self._strangers:
      self._strangers.remove(link)
    for index in [i for i, known in self.links.items() if known is link]:
      self._say(f'Process {index} ({self.names[index]}) has gone again.')
      del self.links[index], self.names[index]

  def _admit(self, link: wire.Link, hello: wire.Message) -> None:
    index, name = hello.get('hello'), str(hello.get('host'))[:200]
    if type(index) is not int:
      link.close()  # not one of us
      return
    if not 0 < index < self._place.count or index in self.links:
      there = self.names.get(index, f'there are {self._place.count}')
      link.send({
        'refused': f'--process-id={index} is taken ({there}); every process '
        f'needs its own, from 0 to {self._place.count - 1}'
      })
      link.close()
      return
    if different := _different(self._about, hello.get('about')):
      line = (
        f'process {index} ({name}) does not fit process 0: {different}; start '
        'all with the same command, code and packages'
      )
      link.send({'refused': line})
      self.turn_away(line, 'refused')
      raise errors.InputError(line)
    self.links[index], self.names[index] = link, name
    took = time.monotonic() - self._began
    self._say(
      f'Process {index} of {self._place.count} ({name}) has come after '
      f'{took:.1f} s.'
    )


def _different(ours: dict[str, str], theirs: Any) -> str:
  """Example: 'jax is 0.10.1 there and 0.10.2 here'."""
  theirs = theirs if isinstance(theirs, dict) else {}
  return ', '.join(
    f'{key} is {theirs.get(key)} there and {value} here'
    for key, value in ours.items()
    if theirs.get(key) != value
  )


def knock(place: Place, join_s: float, about: dict[str, str]) -> group.Members:
  """The others go to process 0, and wait for its word.

  Raises:
    LostHostError: process 0 is not there, or somebody else did not come.
    InputError: process 0 refuses this one.
  """
  until = time.monotonic() + join_s
  hello = {'hello': place.index, 'host': socket.gethostname(), 'about': about}
  host, port = place.address
  # Process 0 began to wait before or after us: it is to say who is missing.
  patience = until + group.GRACE_S
  while link := wire.connect(host, port, until, lambda: hello):
    gone = False
    while not gone and (left := patience - time.monotonic()) > 0:
      for _ in wire.ready([link], min(left, 1.0)):
        messages = link.receive()
        gone = messages is None
        for message in messages or ():
          if members := _answered(place, link, message):
            return members
    link.close()
    time.sleep(wire.RETRY_S)  # process 0 may be started anew
  raise errors.LostHostError(
    f'after {join_s:g} s process 0 of {place.count} had not come: nobody '
    f'answers process {place.index} at {place.coordinator}'
  )


def _answered(
  place: Place, link: wire.Link, message: wire.Message
) -> group.Members | None:
  """What process 0 said, once it has."""
  if line := message.get('refused'):
    raise errors.InputError(line)
  if line := message.get('lost'):
    raise errors.LostHostError(line)
  hosts = message.get('welcome')
  if hosts is None:
    return None
  return group.Members(place.index, tuple(hosts), {0: link})
