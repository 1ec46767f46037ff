"""The judge of ``dgkit quality``: its networks, data, training and export."""
