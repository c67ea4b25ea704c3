"""Writes the cache of a text as an Apache Beam pipeline, on many machines.

The files are the same to the byte as those of `cache_writer`, whatever the
runner, the number of workers, and the order in which they work:

  0. Compare, for a step that keeps the first of equal documents: the hashes of
     all documents are grouped, and all but the first of each group are left
     out. Steps that decide about each document by itself run where it is read.
  1. Encode. Each source shard (a file) is read by itself. Its tokens are keyed
     by (source shard, index of the document, piece of the document), and have
     their place among the tokens of the shard.
  2. Count. The numbers of tokens of all source shards, summed up in their
     order, give the first place of each.
  3. Cut. The place of every token among all tokens is now known, and with it
     its output shard, by division.
  4. Group by output shard, sort by place, and write one file for each: under a
     temporary name first, so that a worker that is run twice does no harm.
  5. `meta.json` is written by the calling process when all files are there.

One output shard (128 MB of rows) must fit into the memory of a worker. Apache
Beam is imported where it is used, and is no dependency otherwise.
"""

import contextlib
import dataclasses
import io
import pickle
import secrets
import shlex
import shutil
from typing import Any

from moejax.core import errors, files
from moejax.data import beam_stages as stages
from moejax.data import cache, cache_writer, packings
from moejax.data import request as request_lib
from moejax.data.seqio_bridge import needed

# Not DirectRunner, which first tries to download another runner, and runs a
# pipeline that failed there a second time.
LOCAL = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'


def make(
  text: cache_writer.TextSource,
  split: str,
  request: cache_writer.Request,
  flags: str = '',
  output: str = '',
) -> str:
  """Writes the cache of a split of a text, if there is none.

  Args:
    text: the source of the documents.
    split: 'train' or 'validation'.
    request: how they are packed, and the folder of caches.
    flags: Beam's own, as on a command line; without --runner, a runner in this
      process is taken.
    output: another folder of caches, as Beam's file systems name it (gs://...).

  Returns:
    The cache's folder.

  Raises:
    InputError: Beam or the runner is not installed, the text cannot be divided,
      a document is bad, or the pipeline failed.
  """
  request = text.encoded(split, request)
  _check(text, split, request)
  beam_options(flags)
  spec, path = cache_writer.spec_and_path(text, split, request)
  if '://' in output:
    final = f'{output.rstrip("/")}/{path.name}'
    _write(text, split, request, flags, final, spec)
    return final
  if path.exists():
    return str(path)
  partial = path.with_name(f'{path.name}.beam.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f'.{path.name}.lock')
    with request_lib.locked(lock, path.name, request.report):
      shutil.rmtree(partial, ignore_errors=True)  # of a failed pipeline
      partial.mkdir()
      progress = partial / cache_writer.PROGRESS  # for `prune` to know it by
      progress.write_text('{}')
      _write(text, split, request, flags, str(partial), spec)
      progress.unlink()
      files.sync_folder(partial)
      partial.rename(path)
      files.sync_folder(path.parent)
  except OSError as e:
    raise cache.unwritable(e, request.folder) from e
  return str(path)


def _check(
  text: cache_writer.TextSource, split: str, request: cache_writer.Request
) -> None:
  """Raises InputError where the places of tokens are not known beforehand."""
  if text.shards(split) is None:
    raise errors.InputError(
      f'{text.name} cannot be packed with --beam: its documents are chosen in '
      'the order of the whole text, or are read elsewhere; pack it without '
      '--beam, or give its files as data.files'
    )
  if request.max_documents:
    raise errors.InputError(
      f'data.max_documents={request.max_documents} counts the documents in '
      'their order, which workers with --beam do not know: leave it out, or '
      'pack without --beam'
    )
  if request.packing.identity() != packings.Sequential().identity():
    raise errors.InputError(
      'data.packing: only documents laid end to end (sequential) can be packed '
      'with --beam; pack the others without it'
    )


def beam_options(flags: str) -> Any:
  """Beam's options.

  Raises:
    InputError: Beam is not installed, a flag is unknown, or the runner is not
      installed.
  """
  try:
    words = shlex.split(flags)
  except ValueError as e:
    raise errors.InputError(
      f'--beam={flags.strip()}: {e}; quote the flags as for a shell'
    ) from None
  with needed('--beam', "'moejax[beam]'", 'pack without --beam'):
    from apache_beam import runners
    from apache_beam.options import pipeline_options
  if not any(word.split('=')[0] == '--runner' for word in words):
    words.append(f'--runner={LOCAL}')
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      options = pipeline_options.PipelineOptions(words)
      known = options.get_all_options()  # which reads all of them
      given = options.get_all_options(retain_unknown_options=True)
  except SystemExit as e:
    if not e.code:  # after --help
      raise
    reason = said.getvalue().strip().rpartition('error: ')[2]
    raise errors.InputError(
      f'--beam={flags.strip()}: {reason}; --beam=--help lists its flags'
    ) from None
  name = known['runner']
  # Other runners have flags of their own, which Beam learns of later.
  if name == LOCAL and (unknown := sorted({*given} - {*known})):
    raise errors.InputError(
      f'--beam={flags.strip()}: Beam has no flag --{unknown[0]} for a pipeline '
      'in this process; --beam=--help lists its flags'
    )
  try:
    runners.create_runner(name)
  except (ImportError, AttributeError, ValueError, TypeError) as e:
    reason = (str(e) or type(e).__name__).splitlines()[0]
    raise errors.InputError(
      f'--beam: the runner {name!r} cannot be used here ({reason}): install '
      "what it needs (pip install 'apache-beam[gcp]' for DataflowRunner), or "
      'name another with --runner'
    ) from None
  return options


def _write(
  text: cache_writer.TextSource,
  split: str,
  request: cache_writer.Request,
  flags: str,
  folder: str,
  spec: dict[str, Any],
) -> None:
  """Writes all files of a cache; `meta.json`, which makes it one, is last."""
  layout = stages.Layout(
    f'{text.name} {split}',
    # The fields alone: a loaded tokenizer may lose settings when it is sent.
    dataclasses.replace(request.vocab),
    request.length,
    request.rows_per_block(),
    request.rows_per_block() * request.blocks_per_shard(),
  )
  counts, written, num_cut = _run(text, split, layout, flags, folder)
  reports = [count.report for count in counts]
  for report in reports:
    if isinstance(report, errors.InputError):
      raise report
  notes = text.shard_notes(split, reports)
  for note in notes:
    request.report(cache_writer.Progress(layout.name, note=note))
  meta = cache.Meta(
    spec=spec,
    vocab_size=request.vocab.size,
    length=request.length,
    rows_per_shard=layout.rows_per_shard,
    num_rows=sum(shard.rows for shard in written),
    num_tokens=sum(count.num_tokens for count in counts),
    num_documents=sum(count.num_documents for count in counts),
    num_bytes=sum(count.num_bytes for count in counts),
    notes=tuple(notes),
    shards=tuple(written),
    num_cut=num_cut,
    removed=text.removed(split),
  )
  stages.save(f'{folder}/{cache.META}', [meta.to_json().encode()])


def _run(
  text: cache_writer.TextSource,
  split: str,
  layout: stages.Layout,
  flags: str,
  folder: str,
) -> tuple[list[stages.Counted], list[cache.Shard], int]:
  """Runs the pipeline: writes the output shards.

  Returns:
    The source shards that were read and the output shards, both in order, and
    the number of documents in more than one row.
  """
  import apache_beam as beam
  from apache_beam.io.filesystems import FileSystems

  options = beam_options(flags)
  results = f'{folder}/.results-{secrets.token_hex(8)}'
  to_list = beam.combiners.ToList
  try:
    with beam.Pipeline(options=options) as pipeline:
      encoded = (
        _sources(pipeline, text, split)
        | 'Spread' >> beam.Reshuffle()
        | 'Encode'
        >> beam.FlatMap(stages.encode, text, split, layout).with_outputs(
          'counts', main='pieces'
        )
      )
      first = (
        encoded.counts | 'Count' >> to_list() | beam.Map(stages.first_places)
      )
      cut = encoded.pieces | 'Cut' >> beam.FlatMap(
        stages.cut, beam.pvalue.AsSingleton(first), layout
      ).with_outputs('cut', main='tokens')
      written = (
        cut.tokens
        | 'Group' >> beam.GroupByKey()
        | 'Write' >> beam.Map(stages.write_shard, layout, folder)
      )
      listed = [
        values | f'List {name}' >> to_list() | f'Name {name}' >> _named(name)
        for name, values in {
          'counts': encoded.counts,
          'shards': written,
          'cut': cut.cut | 'Sum' >> beam.CombineGlobally(sum),
        }.items()
      ]
      _ = (
        listed
        | 'All' >> beam.Flatten()
        | 'Results' >> to_list()
        | 'Save' >> beam.Map(stages.save_results, results)
      )
    with FileSystems.open(results) as file:
      lists = pickle.loads(file.read())
    FileSystems.delete([results])
  except Exception as e:
    lines = (line.strip() for line in str(e).splitlines())
    reason = ' '.join(filter(None, lines))[:500] or type(e).__name__
    runner = options.get_all_options()['runner'].rpartition('.')[2]
    raise errors.InputError(
      f'--beam: the pipeline for {layout.name} failed on {runner}: {reason}; '
      '--trace shows where'
    ) from e
  counts = sorted(lists['counts'], key=lambda count: count.shard)
  shards = sorted(lists['shards'], key=lambda shard: shard.file)
  return counts, shards, sum(lists['cut'])


def _sources(pipeline: Any, text: cache_writer.TextSource, split: str) -> Any:
  """The source shards by number; where they are compared, as `joined`."""
  import apache_beam as beam

  listed = [*enumerate(text.shards(split) or ())]
  shards = pipeline | 'Shards' >> beam.Create(listed)
  if not text.compares_shards:
    return shards
  repeated = (
    shards
    | 'Spread to compare' >> beam.Reshuffle()
    | 'Keys' >> beam.FlatMap(stages.keys, text, split)
    | 'Compare' >> beam.GroupByKey()
    | 'Repeated' >> beam.FlatMap(stages.repeated)
  )
  return (
    {'source': shards, 'repeated': repeated}
    | 'Join' >> beam.CoGroupByKey()
    | 'Joined' >> beam.Map(stages.joined)
  )


def _named(name: str) -> Any:
  import apache_beam as beam

  return beam.Map(lambda values: (name, values))
