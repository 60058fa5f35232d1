"""A plug-in of metaseg with one thing of each kind, each in a module of its own."""
