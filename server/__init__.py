"""A bundle behind HTTP: what is asked for by many is drawn together, step by step."""
