"""Tests of `launch/reporting/`."""
