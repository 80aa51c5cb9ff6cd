"""Evaluation protocols, metrics and result files."""
