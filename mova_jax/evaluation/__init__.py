"""Retrieval ranks, grounding against timed sentences, and the report of a run."""
