"""Recipes of SimMTM."""
