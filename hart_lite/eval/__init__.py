"""One evaluator: benchmarks, metrics, statistics."""
