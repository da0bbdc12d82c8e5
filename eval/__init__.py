"""The benchmark of the paper: MSCOCO triplets, results of methods on them, metrics, tables and a report."""
