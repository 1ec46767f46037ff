"""Segmenters of any kind behind one class: ONNX files, mmsegmentation checkpoints, transformers folders."""
