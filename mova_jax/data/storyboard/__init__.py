"""Storyboard, the embedded data set: generated videos with captions."""
