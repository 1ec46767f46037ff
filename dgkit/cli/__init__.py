"""The command line: one file per command, each a plain function over the library; nothing heavy at module level."""
