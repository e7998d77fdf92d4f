"""MotionClone (arXiv 2406.05338) without any host: representation, energy, guidance, extraction."""
