"""The content-safety service, which rates images and prompts over HTTP."""
