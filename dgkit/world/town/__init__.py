"""Composition of a scene: the plan of the street and what is placed where."""
