"""Speed and memory of whole processes, side by side in one run."""
