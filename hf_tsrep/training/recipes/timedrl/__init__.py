"""Recipes of TimeDRL."""
