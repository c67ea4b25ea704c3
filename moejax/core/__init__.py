"""Config, tables, metric values, files, logs: knows nothing of models."""
