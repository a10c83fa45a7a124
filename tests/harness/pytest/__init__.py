"""Tests of harness/pytest."""
