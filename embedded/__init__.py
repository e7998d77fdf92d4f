"""A tiny AnimateDiff, trained on drawn clips, that shows and measures motion cloning on any machine."""
