"""What a run keeps on disk: the run folder, its parts and its journal, and what proves them whole."""
