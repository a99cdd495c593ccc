"""The explanation of one scene: numbers and sentences, written as a page, JSON or PLY."""

from prob3r.report.explain import explain
from prob3r.report.explanation import Explanation, write_json
from prob3r.report.page import write_page
from prob3r.report.ply import write_ply

__all__ = ["Explanation", "explain", "write_json", "write_page", "write_ply"]
