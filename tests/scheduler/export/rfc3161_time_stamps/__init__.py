"""Tests of time stamps of exports."""
