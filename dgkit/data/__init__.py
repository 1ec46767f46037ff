"""Label maps, data sets, crops, prompts and manifests."""
