"""The decoder: pure functions from tokens to logits, without training or data.

Letters of shapes: B rows, L tokens of a row, S keys, T tokens of the batch
(B * L), D model width, H query heads, G key-value heads, K head width, F hidden
width of a feed-forward, V vocabulary. docs/glossary.md defines the words.
"""
