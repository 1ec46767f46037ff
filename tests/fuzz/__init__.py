"""Hostile and damaged input files: every reader returns or raises DgkitError, in bounded time and memory."""
