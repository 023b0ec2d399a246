"""Evaluations of a model on a split: retrieval, masks, leak, grounding, timelines and so on."""
