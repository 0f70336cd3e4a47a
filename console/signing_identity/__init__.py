"""The identity that signs image files, as commands make it and tell of it."""
