"""Faults in the hosts' runs: `python -m benchmarks faults` kills them, fills their disk and takes their memory."""
