"""Searching a library of videos: frame vectors on disk, questions, and a page."""
