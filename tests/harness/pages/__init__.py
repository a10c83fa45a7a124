"""Tests of harness/pages."""
