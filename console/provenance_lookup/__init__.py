"""Tells where pictures come from: by signed manifests, marks, digests and ISCC codes."""
