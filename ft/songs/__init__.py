"""Songs as files: which were meant, what their stems are called, and one or many of them from file to files."""
