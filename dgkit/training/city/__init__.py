"""The embedded model: its recipe, its networks and the stages of its training."""
