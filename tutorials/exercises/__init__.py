"""Functions of nanos2t to write again; see README.md."""
