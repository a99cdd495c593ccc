"""The framework of all studies: the base class, verdicts, results, figures and files."""
