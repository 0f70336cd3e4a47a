"""Renders an image again from its row, and compares the pictures."""
