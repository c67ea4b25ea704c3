"""Text to batches. TensorFlow and SeqIO are imported only below here.

B rows of a batch, L tokens of a row, N records of a cache.
"""
