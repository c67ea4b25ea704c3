"""Images of conversations: read once, kept beside the rows, joined to batches.

A conversation names its images, and `<image>` stands in its text for each of
them. `store` keeps the pixels of all images of a text, `vocab` puts image
tokens into its rows, and `rows` gives batches with the images of their rows.
"""

from moejax.data.images.config import Images

__all__ = ['Images']
