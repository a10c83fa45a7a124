"""Tests of estimators/predict."""
