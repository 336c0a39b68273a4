"""The recipes of example_configs/ for models that people train: run in miniature, and estimated."""
