"""The edge to google-genai: where the API is, one client, and what its answers and errors mean."""
