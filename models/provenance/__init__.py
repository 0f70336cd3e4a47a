"""Provenance of image files: signed C2PA manifests, ISCC codes, and the IPTC source type in XMP."""
