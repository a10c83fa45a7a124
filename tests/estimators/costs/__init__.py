"""Tests of estimators/costs."""
