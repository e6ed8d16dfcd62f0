"""The input table: its files, found, checked and read as rows."""
