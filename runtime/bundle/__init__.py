"""The bundle's folder and what is in it: manifest, goldens, engines."""
