"""`prepare inspect`: statistics and checks of shards."""
