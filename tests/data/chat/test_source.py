"""Files of conversations become rows, as the rows of other texts are made."""

import dataclasses
import json

import numpy as np
import pytest

from moejax.core import config_tree, errors
from moejax.data import (
  beam_cache,
  build,
  cache_writer,
  config,
  loader,
  packings,
  preview,
  vocab,
)
from moejax.data.chat import source

LENGTH = 120


def turns(number, answers=1):
  listed = []
  for at in range(answers):
    listed += [
      {'role': 'user', 'content': f'What is {number} and {at}?'},
      {'role': 'assistant', 'content': f'It is {number + at}.'},
    ]
  return listed


def write(path, rows):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text(''.join(line + '\n' for line in lines))
  return path


def talks(count, start=0):
  return [
    {'messages': turns(n, 1 + n % 2)} for n in range(start, start + count)
  ]


def data_config(path, folder, **keys):
  flags = {
    'conversations': str(path),
    'chat.template': 'deepseek',
    'vocab.name': 'bytes',
    'sequence_length': str(LENGTH),
    'cache_dir': str(folder),
    'max_documents': '0',
    **keys,
  }
  return config_tree.override_all(config.DataConfig(), [*flags.items()])


def built(*args, **keys):
  notes = []
  own = data_config(*args, **keys)
  own.check_used()
  report = lambda progress: notes.append(progress.note)
  return build.build(own, 16, 0, report), [note for note in notes if note]


def text(batch, row, ours=vocab.Bytes()):  # noqa: B008
  """The targets of a row with a loss, and those without one."""
  kept_L = batch.weight_BL[row] > 0
  prompt_L = (batch.segment_BL[row] > 0) & ~kept_L
  return (
    ours.decode(batch.target_BL[row][kept_L]),
    ours.decode(batch.target_BL[row][prompt_L]),
  )


def every(reader):
  """All rows of a reader, as a batch."""
  return loader.eval_batch(reader, 0, reader.num_rows)


def test_answers_are_targets_and_no_conversation_is_cut(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(300))
  data, notes = built(path, tmp_path / 'c')
  assert not notes
  seen = 0
  for split, reader in data.validation.items():
    assert split == 'conversations'
    for rows in (reader, data.domains[split].train):
      assert rows.meta.num_cut == 0
      batch = every(rows)
      assert batch.token_BL.shape[1] == LENGTH
      for row in range(rows.num_rows):
        for segment in range(1, batch.segment_BL[row].max() + 1):
          here_L = batch.segment_BL[row] == segment
          one = dataclasses.replace(
            batch,
            segment_BL=np.where(here_L, 1, 0)[None],
            weight_BL=(batch.weight_BL[row] * here_L)[None],
            target_BL=batch.target_BL[row][None],
          )
          said, asked = text(one, 0)
          number = int(asked.split()[3])
          count = 1 + number % 2
          want = ''.join(f' It is {number + at}.' for at in range(count))
          assert said == want
          assert asked.count('What is') == count
          # Conversations with a system message begin with another id.
          assert batch.token_BL[row][here_L][0] == 0
          assert asked.startswith('User: ')
          seen += 1
  assert seen == 300


def test_a_batch_mixes_conversations_and_texts(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(300))
  texts = [{'text': f'The number {n} is plain text.'} for n in range(300)]
  plain = write(tmp_path / 'plain.jsonl', texts)
  keys = {
    'conversations': '',
    'chat.template': '',
    'sources.chat.conversations': str(path),
    'sources.chat.chat.template': 'chatml',
    'sources.web.files': str(plain),
  }
  data, _ = built('', tmp_path / 'c', **keys)
  batch = data.train.batch(0)
  domain_B, row_B = data.train.locate(np.arange(16))
  assert {*domain_B} == {0, 1}
  for at, (domain, row) in enumerate(zip(domain_B, row_B, strict=True)):
    name = data.train.domains[domain]
    reader = data.domains[name].train
    alone = every(reader)
    for field in ('token_BL', 'target_BL', 'weight_BL', 'position_BL'):
      np.testing.assert_array_equal(
        getattr(batch, field)[at], getattr(alone, field)[row]
      )
    starts = batch.token_BL[at][batch.position_BL[at] == 0]
    assert starts[0] == {'chat': ord('<') + 3, 'web': 0}[name]
    whole = (batch.segment_BL[at] > 0).sum() == batch.weight_BL[at].sum()
    assert whole == (name == 'web')


def test_the_loss_counts_weights_and_not_tokens(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(300))
  data, _ = built(path, tmp_path / 'c')
  reader = data.validation['conversations']
  batch = every(reader)
  assert reader.num_tokens == (batch.segment_BL > 0).sum()
  assert 0 < batch.weight_BL.sum() < 0.5 * reader.num_tokens
  # The frequencies of a baseline are those of the answers.
  assert 0 < data.baselines('conversations').unigram_nats < np.log(259)


def test_an_interrupted_packing_goes_on_to_the_same_bytes(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(80))
  one = dataclasses.replace
  ours = source.Conversations(
    str(path), chat=source.Chat('deepseek'), key='conversations'
  )
  request = lambda name: cache_writer.Request(
    vocab.Bytes(), LENGTH, tmp_path / name, rows_per_shard=8
  )
  whole = ours.rows('train', ours.encoded('train', request('whole')))
  progress = []

  def stop(report):
    progress.append(report)
    if len(progress) == 4:
      raise KeyboardInterrupt

  cut = ours.encoded('train', one(request('cut'), report=stop))
  with pytest.raises(KeyboardInterrupt):
    ours.rows('train', cut)
  again = ours.rows('train', ours.encoded('train', request('cut')))
  assert again.contents == whole.contents
  assert again.fingerprint == whole.fingerprint


def test_few_conversations_are_held_out_whole(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(21))
  found = {}
  for name, rows in (('a', talks(21)), ('b', talks(21)[::-1])):
    write(path, rows)
    ours = source.Conversations(str(path), fraction=0.1)
    texts = {
      split: {c.sha256() for c in ours._of_split(ours.all_texts(), split)}
      for split in ours.splits
    }
    assert not texts['train'] & texts['validation']
    assert (len(texts['train']), len(texts['validation'])) == (18, 3)
    found[name] = texts
  assert found['a'] == found['b']  # whatever their order
  write(path, talks(1))
  with pytest.raises(errors.InputError, match='nothing to validate on'):
    built(path, tmp_path / 'c')


def test_what_is_left_out_is_counted(tmp_path):
  long = {'messages': turns(7, 9)}
  huge = {
    'messages': [
      {'role': 'user', 'content': 'x' * LENGTH},
      {'role': 'assistant', 'content': 'y'},
    ]
  }
  refused = {
    'messages': [
      {'role': 'user', 'content': 'x'},
      {'role': 'tool', 'content': 'x'},
      {'role': 'assistant', 'content': 'y'},
    ]
  }
  no_answer = {'messages': turns(1)[:1]}
  rows = [*talks(20), '{"messages"', no_answer, refused, huge, long]
  path = write(tmp_path / 'talks.jsonl', rows)
  keys = {'bad_lines': 'skip', 'validation_files': str(path) + 'v.jsonl'}
  write(tmp_path / 'talks.jsonlv.jsonl', talks(3, start=50))
  _, notes = built(path, tmp_path / 'c', **keys)
  assert sorted(notes) == [
    '1 conversation longer than 120 tokens (data.sequence_length): the last 7 '
    'answers are left out',
    f'left out 2 bad documents, the first is {path}:21: not JSON (Expecting '
    "':' delimiter: line 2 column 1 (char 12))",
    f'left out 2 bad documents, the first is {path}:23: the chat template '
    'does not take it: it has no role tool',
  ]
  # A second run says it again, from the cache.
  _, again = built(path, tmp_path / 'c', **keys)
  assert sorted(again) == sorted(notes)
  # Without skip each of them ends the run, by its place.
  for bad, message in (
    ('{"messages"', 'talks.jsonl:21: not JSON'),
    (no_answer, 'talks.jsonl:21: no answer'),
    (refused, 'talks.jsonl:21: the chat template does not take it: it has no'),
    (huge, 'talks.jsonl:21: its first answer ends at token'),
  ):
    write(path, [*talks(20), bad])
    with pytest.raises(errors.InputError, match=message) as e:
      built(path, tmp_path / 'c', **{**keys, 'bad_lines': 'stop'})
    assert 'data.bad_lines=skip' in str(e.value)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'chat.template': 'none.jinja'}, "data.chat.template='none.jinja' is"),
    ({'chat.template': ''}, 'data.vocab has no chat template beside it'),
    ({'chat.loss': 'answers'}, "unknown chat.loss 'answers'"),
    (
      {
        'conversations': '',
        'chat.template': '',
        'sources.a.conversations': 'a.jsonl',
        'sources.b.conversations': 'b.jsonl',
        'sources.b.chat.template': 'vicuna',
      },
      r"chat templates are \['', 'vicuna'\], but a model has one",
    ),
    (
      {
        'conversations': '',
        'chat.template': '',
        'sources.a.conversations': 'a.jsonl',
        'sources.a.fill_in_middle.rate': '0.5',
      },
      'data.sources.a has conversations: leave it out',
    ),
    ({'conversations': 'no.jsonl'}, "data.conversations='no.jsonl'"),
    ({'files': 'a.txt'}, 'give one of them'),
    ({'steps.length.min_characters': '1'}, 'leave out data.steps.length'),
    ({'conversations': ''}, 'data.chat is about data.conversations'),
    (
      {'sources.web.task': 'c4', 'sources.web.chat.loss': 'last_answer'},
      'has no effect on a source of task|would take the place',
    ),
  ],
)
def test_keys_that_do_not_fit_are_one_line(keys, message, tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(3))
  with pytest.raises(errors.InputError, match=message) as e:
    built(path, tmp_path / 'c', **keys)
  assert '\n' not in str(e.value)


def test_a_template_that_refuses_is_not_said_to_be_another_tokenizer(tmp_path):
  tool = {'messages': [{'role': 'tool', 'content': 'x'}, *turns(1)]}
  path = write(tmp_path / 'talks.jsonl', [*talks(3), tool])
  built(path, tmp_path / 'c', **{'chat.template': 'chatml'})
  with pytest.raises(errors.InputError, match='no role tool.*another data.voca'
                     'b, data.chat or data.images: to use'):  # fmt: skip
    built(path, tmp_path / 'c')


def test_other_kinds_of_files_and_beam(tmp_path):
  (tmp_path / 'a.txt').write_text('Hi')
  with pytest.raises(errors.InputError, match='kinds are: .jsonl, '):
    built(tmp_path / 'a.txt', tmp_path / 'c')
  path = write(tmp_path / 'talks.jsonl', talks(3))
  own = data_config(path, tmp_path / 'c')
  (ours,) = build.text_sources(own).values()
  with pytest.raises(errors.InputError, match='packed with --beam'):
    beam_cache.make(ours, 'train', build.packing_request(own), '')


def test_the_folder_of_a_cache_depends_on_template_loss_and_no_key_else(
  tmp_path,
):
  path = write(tmp_path / 'talks.jsonl', talks(3))

  def name(**keys):
    own = data_config(path, tmp_path / 'c', **keys)
    (ours,) = build.text_sources(own).values()
    request = ours.encoded('train', build.packing_request(own))
    assert isinstance(request.packing, packings.BestFit)
    return cache_writer.spec_and_path(ours, 'train', request)[1].name

  assert name() == name(**{'packing.name': 'best_fit'})
  others = [
    name(**{'chat.template': 'vicuna'}),
    name(**{'chat.loss': 'last_answer'}),
    name(**{'packing.name': 'best_fit', 'packing.window_rows': '7'}),
  ]
  assert len({name(), *others}) == 4


def test_a_preview_shows_rows_that_are_not_packed_yet(tmp_path):
  path = write(tmp_path / 'talks.jsonl', talks(30))
  own = data_config(path, tmp_path / 'c')
  shown = preview.first_rows(own, 4, 0, 2)
  assert 0 < shown.rows.weight_BL.sum() < (shown.rows.segment_BL > 0).sum()
  assert not (tmp_path / 'c').exists()
