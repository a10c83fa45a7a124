"""Tests of harness/runtimes."""
