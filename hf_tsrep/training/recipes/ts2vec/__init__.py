"""Recipes of TS2Vec."""
