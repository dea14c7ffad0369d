"""Tests of the virtual cluster."""
