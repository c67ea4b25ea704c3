"""TensorBoard's event files, read without TensorBoard."""

import numpy as np


def read(folder):
  """{(name, step): value} of the scalars, and the steps from which to purge."""
  from tensorboardX.proto import event_pb2

  scalars, purges = {}, []
  for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
    data = path.read_bytes()
    while data:
      (size,) = np.frombuffer(data[:8], '<u8')
      event = event_pb2.Event.FromString(data[12 : 12 + int(size)])
      data = data[16 + int(size) :]
      if event.HasField('session_log'):
        purges.append(event.step)
      for value in event.summary.value:
        kind = value.WhichOneof('value')
        scalars[value.tag, event.step] = (
          value.simple_value if kind == 'simple_value' else kind
        )
  return scalars, purges
