"""Sound in and out: what reads files and streams, what formats can hold, encoders and tags."""
