"""Published protocols as evaluations of tested splits: untrimmed video, moments, classes."""
