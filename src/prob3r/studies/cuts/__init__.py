"""What studies of cuts share: variants of edits, what they cost, and the tokens that are cut."""
