"""Forecasters inside other libraries: a file for each, which is imported by who has that library."""
