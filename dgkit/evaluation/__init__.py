"""Measuring folders of labelled pictures with networks given as ONNX files."""
