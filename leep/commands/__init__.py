"""The commands of `leep` that work on images and models; each module adds its own parser."""
