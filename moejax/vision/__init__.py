"""Images to embeddings: reading, preprocessing, encoders, projectors.

Letters of shapes: B images, N tokens of an image, D width of the encoder, H
heads, K head width, F hidden width of a feed-forward, P and Q rows and columns
of a patch, C channels. `image_BHWC` has rows H and columns W of pixels.
"""
