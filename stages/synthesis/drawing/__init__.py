"""From a scene to pixels, on a CPU or a GPU."""
