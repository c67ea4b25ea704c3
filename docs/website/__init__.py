"""What builds the documentation site from the pages and the code.

`docs/conf.py` calls it. Nothing here imports Sphinx, and nothing but `keys`
imports moejax: the reference and the papers are read from the text of the code.
"""
