"""What S-CFG costs: time, memory and label changes, as ratios from one run. See `python -m benchmarks --help`."""
