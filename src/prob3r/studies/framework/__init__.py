"""What every study is made of: the study itself, its verdicts, results, figures and files."""
