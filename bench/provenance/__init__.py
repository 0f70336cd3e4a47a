"""Signed manifests, marks and ISCC codes: what they cost, and how many changed pictures they trace back."""
