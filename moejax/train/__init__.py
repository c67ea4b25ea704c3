"""A batch and a model to a trained state."""
