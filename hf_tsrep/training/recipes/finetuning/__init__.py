"""Recipes of fine-tuning: `METHOD.yaml` where a method's paper has settings of its own, else `default.yaml`."""
