"""What was measured, as a page and as pictures."""
