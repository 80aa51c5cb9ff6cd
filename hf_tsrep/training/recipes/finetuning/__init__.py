"""Recipes of fine-tuning: default, linear-probe for a head alone, METHOD or METHOD-TASK where a paper has its own."""
