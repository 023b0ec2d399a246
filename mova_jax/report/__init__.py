"""The report of a run: tables, plots and one HTML page, from its metrics."""
