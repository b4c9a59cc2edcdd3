"""The SO8T engine: datasets, training, evaluation and export of safety personas, without Qt."""

__version__ = "0.1.0"
