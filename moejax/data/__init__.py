"""Turns text into batches; no other package imports TensorFlow or SeqIO.

A task (`tasks`) is a text. Its documents become token ids (`vocab`), then rows
of fixed length (`features`), then records on disk (`cache_writer`, `cache`),
once for all runs. The `loader` mixes the rows of several domains into batches.
`build` composes these from the config. docs/glossary.md defines the words.

Letters of shapes: B rows of a batch, L tokens of a row, T tokens of a document,
D domains, V ids of a vocabulary, N rows or indices, M some of them, S places
of a block.
"""
