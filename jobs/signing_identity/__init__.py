"""The identity that image files are signed with: where it is."""
