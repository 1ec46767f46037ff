"""``dgkit eval``: score a segmenter on labelled data sets by the protocols of the papers."""
