"""Recipes of fine-tuning, by method, mode or task, and corpus; `recipe_for` looks for them, the nearest first."""
