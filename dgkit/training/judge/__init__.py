"""The judge of ``dgkit quality``: networks, data, training and export."""
