"""Tests of `models.provenance`."""
