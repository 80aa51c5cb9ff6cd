"""Answers of trained models to new series: alarms, neighbours, clusters, filled gaps; and where they come from."""
