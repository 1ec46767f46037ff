"""Segmentation networks and their training with mmsegmentation (extra ``seg``)."""
