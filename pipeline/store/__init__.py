"""What is on disk, or in an object store: shards, records, labels, the saved job."""
