"""Folding inserted operators into the weights around them."""
