"""Tests of harness/energy."""
