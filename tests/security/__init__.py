"""What dgkit does with folders and files that somebody else prepared."""
