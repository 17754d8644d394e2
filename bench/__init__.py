"""`ft bench`, the scripts behind every published figure (`python -m bench.NAME`), and the demonstration."""
