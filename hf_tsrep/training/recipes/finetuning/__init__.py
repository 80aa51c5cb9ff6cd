"""Recipes of fine-tuning: default, linear-probe for a head alone, and METHOD where a paper has settings of its own."""
