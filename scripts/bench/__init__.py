"""Measures Verge and its rivals side by side and prints the table; scripts/bench.sh prepares what it needs."""
