"""Traces of a run while it trains: a few tokens at each evaluation.

So the page and the measures of a run have its past, as saturation and change
rate need, without a checkpoint of each step. The files are those of
`moejax trace`, with `while_training` in their request; a call of that
command for another text replaces them.
"""

import os
import pathlib
from collections.abc import Callable
from concurrent import futures

import jax
from etils import epath

from moejax.core import errors, files
from moejax.run import trace_files, traced_text, tracing
from moejax.run.context import Context
from moejax.train import loop
from moejax.train.state import State

Say = Callable[[str], None]


def with_traces(
  evaluation: loop.Hook, context: Context, folder: epath.Path, say: Say
) -> list[loop.Hook]:
  """An evaluation, and one that writes a trace if the run has traces.

  On one CPU device they run at once, so that one is compiled while the other
  computes. Several devices could wait for each other's exchanges, and the
  memory of an accelerator may hold one pass alone.

  Args:
    evaluation: another evaluation of the run.
    context: the run.
    folder: its workdir.
    say: is called with a line if a trace cannot be written.
  """
  traces = hooks(context, folder, say)
  devices = context.model.mesh.devices
  if traces and devices.size == 1 and devices.flat[0].platform == 'cpu':
    return [beside(evaluation, *traces)]
  return [evaluation, *traces]


def beside(evaluation: loop.Hook, other: loop.Hook) -> loop.Hook:
  """An evaluation with another one in a thread; their metrics."""

  def hook(at: int, state: State) -> dict[str, float]:
    with futures.ThreadPoolExecutor(1, 'moejax-beside') as pool:
      running = pool.submit(other, at, state)
      metrics = evaluation(at, state)
      return metrics | running.result()

  return hook


def hooks(context: Context, folder: epath.Path, say: Say) -> list[loop.Hook]:
  """The evaluation that writes a trace; none if the run has no traces.

  Args:
    context: the run.
    folder: its workdir.
    say: is called with a line if a trace cannot be written.
  """
  tokens = context.run.report.trace_tokens
  wanted = tokens and context.run.model.num_moe and context.data.validation
  alone = jax.process_count() == 1 and files.is_local(folder)
  if not wanted or not alone:
    return []
  data, place = context.data, pathlib.Path(os.fspath(folder))
  text = traced_text.of(data.validation, data.vocab, context.run.data, tokens)

  def hook(at: int, state: State) -> dict[str, float]:
    tokens_read = {'tokens': data.counts.tokens(at)}
    header = trace_files.header_of(
      context.run, context.model, text, at, tokens_read, while_training=True
    )
    try:
      own = place / trace_files.FOLDER
      own.mkdir(exist_ok=True)
      trace_files.remove_unlike(own, header)
      path = own / f'{at:08d}.parquet'
      traces = tracing.trace(
        context.model,
        state.weights,
        text,
        step=at,
        tokens_seen=header.tokens_seen,
      )
      tracing.write(path, header, traces)
    except (errors.InputError, errors.StoppedError, OSError) as error:
      say(f'No trace of step {at}: {error}')
    return {}

  return [hook]
