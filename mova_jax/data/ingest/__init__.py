"""From videos and annotations to shards."""
