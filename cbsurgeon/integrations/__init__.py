"""Training programs of others: thin, each optional."""
