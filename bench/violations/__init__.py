"""What is wrong with a JSON file, place by place, and what to write instead."""

from bench.violations.files import Explanation, explain_file
from bench.violations.violation import Violation

__all__ = ["Explanation", "Violation", "explain_file"]
