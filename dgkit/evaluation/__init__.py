"""Evaluation of segmenters on data sets, and of generated folders with segmenters."""
