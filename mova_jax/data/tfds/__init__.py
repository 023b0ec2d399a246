"""TFDS data sets as sources, and our shards as a TFDS data set."""
