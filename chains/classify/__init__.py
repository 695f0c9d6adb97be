"""Labels for texts, chosen among given ones, with calibrated probabilities."""

from chains.classify.chain import classify_chain
from chains.classify.result import Classification
from chains.classify.table import TableReport, classify_table, read_examples_table

__all__ = ["Classification", "TableReport", "classify_chain", "classify_table", "read_examples_table"]
