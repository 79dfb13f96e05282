"""One file per paper; the file's name is the method's. Each offers NEEDS, Config and the generator edit()."""
