"""Segmentation networks and their training, on mmsegmentation (extra ``seg``), the only package that imports it."""
