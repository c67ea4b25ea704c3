"""Text to batches. TensorFlow and SeqIO are imported only below here.

A `task` is a text; its documents become token ids (`vocab`), rows of fixed
length (`features`) and records on disk (`cache_writer`, `cache`), made once.
The `loader` mixes domains of rows into batches; `build` puts all together.

B rows of a batch, L tokens of a row, T tokens of a document, D domains,
V ids of a vocabulary, N rows or indices, M some of them, S places of a block.
"""
