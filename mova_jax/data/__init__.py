"""From videos and captions to batches: decoding, frame shards, tokens and the input pipeline."""
