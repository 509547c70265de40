"""The paper's experiments, on the small model or a checkpoint of one's own: `python -m evaluation --help`."""
