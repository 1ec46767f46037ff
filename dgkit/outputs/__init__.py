"""What becomes of a generated folder: dataset card, shards for other loaders, and a page to look at it."""
