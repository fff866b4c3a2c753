"""What is on record: recipes as they stand, who made what from what, and the verdicts that follow.
Nothing here measures."""
