"""Tests of estimators/sweep."""
