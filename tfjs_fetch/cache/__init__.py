"""What is kept on disk: one directory a model, one generation of it at a time, mapped when it is used."""
