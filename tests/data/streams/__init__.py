"""Tests of data sets in shards of any number."""
