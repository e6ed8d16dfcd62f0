"""Ways of getting answers for the rows of a run."""
