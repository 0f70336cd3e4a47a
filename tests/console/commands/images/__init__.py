"""Tests of commands on images."""
