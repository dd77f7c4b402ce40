"""What a system finds, measured: TREC files, metrics with intervals, reports and curves."""
