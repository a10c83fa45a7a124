"""Tests of harness/measuring."""
