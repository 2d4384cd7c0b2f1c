"""Command lines: the thin shell around the pipeline."""
