"""Weights in and out: names, files and layouts of other frameworks."""
