"""``dgkit quality``: measure whether generated images show what their labels and prompts say."""
