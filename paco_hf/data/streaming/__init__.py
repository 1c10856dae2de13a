"""Prepared datasets: parquet shards with a manifest, written once and read as a stream."""
