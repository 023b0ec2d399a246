"""The shard folder: records, manifest, writing, reading, local cache."""
