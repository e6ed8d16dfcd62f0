"""Rowmill: ask Gemini Flash-Lite one typed question about every row of a table."""
